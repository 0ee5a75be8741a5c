"""Ends processes with their parent, however that ended, so that no process of a run outlives it."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from types import FrameType

import psutil

POLL, PATIENCE = 1.0, 30.0  # seconds between checks of the parent; for the running step and its checkpoint
STARTER = "SFA_STARTER"  # environment variable with the id of the process that started this one's launcher


def end_with_parent(at_once: bool = False) -> None:
    """Watches this process's parent, and the process that started its launcher, if ``STARTER`` is set. When one of
    them ends, this process gets a SIGTERM, which saves a checkpoint, and is ended if that takes longer than the
    launcher would wait.

    A process of ``multiprocessing`` watches the process that requested it, not the server that forked it.

    Args:
        at_once: end without SIGTERM; for processes that have nothing to save.
    """
    threading.Thread(target=_watch, args=(os.getppid(), at_once), daemon=True, name="end with parent").start()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM raise a KeyboardInterrupt. Composer's import makes both end the
    process immediately."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_with_parent(command: Sequence[str]) -> int:
    """Runs a command, such as a launcher, whose ranks watch this process as well, and returns its exit code. SIGINT and
    SIGTERM are forwarded to it as SIGTERM."""
    process = subprocess.Popen(command, env={**os.environ, STARTER: str(os.getpid())})
    before = {
        number: signal.signal(number, lambda *_: process.terminate()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end_worker_with_parent(_: int) -> None:
    """:func:`end_with_parent` for the workers of a ``DataLoader``, by their number."""
    end_with_parent(at_once=True)


def _watch(parent: int, at_once: bool) -> None:
    requester = multiprocessing.parent_process()
    if requester is not None:
        wait([requester.sentinel])
    else:
        starter = int(os.environ.get(STARTER, "0"))
        while os.getppid() == parent and (not starter or psutil.pid_exists(starter)):
            time.sleep(POLL)
    if not at_once:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)
