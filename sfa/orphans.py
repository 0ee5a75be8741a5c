"""Processes end with the one that started them, however that ended: nothing of a run outlives it."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait

POLL, PATIENCE = 1.0, 30.0  # seconds between looks at the parent; for the running step and its checkpoint


def end_with_parent(at_once: bool = False) -> None:
    """Watches the process that started this one. When it is gone, this one gets the SIGTERM that saves a checkpoint,
    and is ended if that takes longer than the launcher would wait.

    A process of ``multiprocessing`` watches the one that asked for it, not the server that forked it.

    Args:
        at_once: end without SIGTERM; for processes that have nothing to save.
    """
    threading.Thread(target=_watch, args=(os.getppid(), at_once), daemon=True, name="end with parent").start()


def end_worker_with_parent(_: int) -> None:
    """:func:`end_with_parent` for the workers of a ``DataLoader``, by their number."""
    end_with_parent(at_once=True)


def _watch(parent: int, at_once: bool) -> None:
    asked_by = multiprocessing.parent_process()
    if asked_by is not None:
        wait([asked_by.sentinel])
    else:
        while os.getppid() == parent:
            time.sleep(POLL)
    if not at_once:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)
