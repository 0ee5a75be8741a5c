"""Runs generated code in a sandbox, or not at all.

Inside: one process without a network, nothing of the host but a read-only Python and the system's libraries, an empty
environment, no ``/proc``, a small ``/tmp``, few system calls, and limits on time, memory, threads and files (see
:mod:`eval.confinement`). What can be had of the host all the same is its kernel's version and processor.

There are two verdicts.

- :func:`solves` is for a completion and its tests. The tests run in a sandbox of their own, and only data comes to them
  from the completion's: nothing that the completion does can make a wrong value right (see :mod:`eval.inside.remote`).
- :func:`passes` is for a whole program, whose own assertions share an interpreter with all else that it does. That it
  ended is read from the kernel, from outside, and not from anything that it says (see :mod:`eval.evidence`). But its
  author also wrote what it asserts, and an interpreter whose memory is corrupted can be led anywhere.
"""

import contextlib
import functools
import json
import subprocess
import time

from eval.confinement import NOBODY as NOBODY
from eval.confinement import START, Confined, NotStarted, Python, confined, pipe, pythons
from eval.evidence import waits
from sfa.errors import SFAError

LONGEST = 2**20  # characters of a text; bytes of a whole program


class NoSandbox(SFAError):
    """No sandbox works on this machine."""


def solves(before: str, completion: str, after: str, seconds: float = 10.0) -> bool:
    """Whether the tests of a completion run to their end without an error.

    Args:
        before: source code in front of the completion: imports, helpers, the head of the function to be completed.
        completion: source code of unknown intent.
        after: the tests. They call what the completion defines and read its plain data; what ``before`` defines, but
            for the completed function, is theirs alone.
        seconds: wall-clock time after which all of it is killed, and processor time of either process.

    Raises:
        NoSandbox: none works here; the message says how to get one.
        NotStarted: one works, but did not come up this time.
    """
    python = _found()
    if max(map(len, (before, completion, after))) > LONGEST:
        return False
    with contextlib.ExitStack() as stack:
        worker_in, judge_out = pipe(stack)
        judge_in, worker_out = pipe(stack)
        line = (judge_in.fileno(), judge_out.fileno())
        worker = stack.enter_context(
            confined(python, ["remote", "worker"], seconds, worker_in.fileno(), worker_out.fileno())
        )
        judge = stack.enter_context(
            confined(python, ["remote", "judge", *map(str, line)], seconds, subprocess.PIPE, subprocess.PIPE, line)
        )
        for end in (worker_in, worker_out, judge_in, judge_out):
            end.close()
        _await(judge, worker)
        with judge.ends_after(seconds):
            job = json.dumps([before, completion, after]).encode()
            _send(judge, len(job).to_bytes(8, "big") + job)
            return _receive(judge) == b"passed"


def passes(program: str, seconds: float = 10.0) -> bool:
    """Whether a Python program runs to its end without an error, its threads' errors included.

    Args:
        program: source code.
        seconds: wall-clock time after which it is killed, and its processor time.

    Raises:
        NoSandbox: none works here; the message says how to get one.
        NotStarted: one works, but did not come up this time.
    """
    return _ends(_found(), program, seconds)


@functools.cache
def works() -> bool:
    """Whether there is a sandbox on this machine."""
    return _sandbox() is not None


@functools.cache
def _sandbox() -> Python | None:
    """The first Python of which all is as it must be."""
    return next((python for python in pythons() if _fault(python) is None), None)


def _fault(python: Python) -> str | None:
    """What is wrong with a Python in the sandbox."""
    try:
        if not _ends(python, "import sys\nassert sys.version_info >= (3, 11)", seconds=10):
            return "it is older than 3.11"
        if _ends(python, "import _ctypes", seconds=10):
            return "its foreign functions are built in"
        if _ends(python, "assert False", seconds=10):
            return "its assertions are switched off"
    except NotStarted as error:
        return str(error)
    return None


def _found() -> Python:
    python = _sandbox()
    if python is None:
        raise NoSandbox(
            "generated code runs in a sandbox or not at all, and none works here. Install bubblewrap, util-linux, "
            "libseccomp and its binding (apt-get install bubblewrap util-linux mount libseccomp2 python3, or dnf "
            "install bubblewrap util-linux libseccomp python3; pip install pyseccomp) and allow user namespaces; as "
            "root, the user nobody must be able to run python3. Or leave humaneval out of eval.tasks. Tried: "
            + "; ".join(f"{python.executable} ({_fault(python)})" for python in pythons())
        )
    return python


def _ends(python: Python, program: str, seconds: float) -> bool:
    try:
        source = program.encode()
    except UnicodeEncodeError:
        return False  # a lone surrogate, which no source code holds
    if len(source) > LONGEST or b"\0" in source:
        return False
    with confined(python, ["program"], seconds, subprocess.PIPE, subprocess.PIPE) as running:
        _await(running)
        pid = running.pid()
        try:
            start = waits(pid, time.monotonic() + START)
        except OSError as error:
            raise NotStarted(f"the kernel does not show where a process waits ({error})") from error
        end = time.monotonic() + seconds
        with running.ends_after(seconds), contextlib.suppress(OSError):  # it has ended
            _send(running, source + b"\0")
            return _receive(running) == b"." and waits(pid, end, start) is not None
    return False


def _await(running: Confined, *others: Confined) -> None:
    """Waits until it says that all is up."""
    with running.ends_after(START):
        if _receive(running) != b".":
            words = [confined.last_words() for confined in (running, *others)]
            raise NotStarted("; ".join(filter(None, words)) or f"it ended, or nothing came in {START:.0f} s")


def _send(running: Confined, data: bytes) -> None:
    assert running.process.stdin is not None
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):  # it ended: that nothing comes back says so
        while rest:
            rest = rest[running.process.stdin.write(rest) :]


def _receive(running: Confined) -> bytes:
    """What it says next, or nothing if it ended."""
    assert running.process.stdout is not None
    return running.process.stdout.read(16)
