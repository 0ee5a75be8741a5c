"""Runs generated code in a sandbox, or not at all.

Inside: one process without a network, nothing of the host but a read-only Python and the system's libraries, an empty
environment, no ``/proc``, a small ``/tmp``, few system calls, and limits on time, memory, threads and files (see
:mod:`eval.confinement`). The host's kernel version and processor remain visible.

There are two verdicts.

- :func:`solves` is for a completion and its tests. The tests run in a separate sandbox and only receive data from the
  completion's: nothing that the completion does can make a wrong value pass (see :mod:`eval.inside.remote`).
- :func:`passes` is for a whole program, whose assertions share an interpreter with the rest of it. Whether it ended
  is determined from outside by the kernel, not from its output (see :mod:`eval.evidence`). But its author also wrote
  the assertions, and an interpreter with corrupted memory can be made to do anything.
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
        completion: untrusted source code.
        after: the tests. They call what the completion defines and read its plain data; what ``before`` defines, except
            the completed function, is private to them.
        seconds: wall-clock limit of the whole, and processor time limit of each process.

    Raises:
        NoSandbox: no sandbox works here; the message says how to install one.
        NotStarted: one works, but did not start this time.
    """
    python = _require_sandbox()
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
        seconds: wall-clock limit, and processor time limit.

    Raises:
        NoSandbox: no sandbox works here; the message says how to install one.
        NotStarted: one works, but did not start this time.
    """
    return _ends(_require_sandbox(), program, seconds)


@functools.cache
def works() -> bool:
    """Whether a sandbox works on this machine."""
    return _sandbox() is not None


@functools.cache
def _sandbox() -> Python | None:
    """The first Python that works in the sandbox."""
    return next((python for python in pythons() if _fault(python) is None), None)


def _fault(python: Python) -> str | None:
    """Why a Python does not work in the sandbox; ``None`` if it does."""
    try:
        if not _ends(python, "import sys\nassert sys.version_info >= (3, 11)", seconds=10):
            return "it is older than 3.11"
        if _ends(python, "import _ctypes", seconds=10):
            return "its ctypes is built in"
        if _ends(python, "assert False", seconds=10):
            return "its assertions are disabled"
    except NotStarted as error:
        return str(error)
    return None


def _require_sandbox() -> Python:
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
        return False  # a lone surrogate, which source code cannot contain
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
    """Waits until the process reports that it is ready."""
    with running.ends_after(START):
        if _receive(running) != b".":
            words = [confined.kill_and_read_errors() for confined in (running, *others)]
            raise NotStarted("; ".join(filter(None, words)) or f"it ended, or did not respond within {START:.0f} s")


def _send(running: Confined, data: bytes) -> None:
    assert running.process.stdin is not None
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):  # it ended, which the missing answer will show
        while rest:
            rest = rest[running.process.stdin.write(rest) :]


def _receive(running: Confined) -> bytes:
    """The next output of the process; empty if it ended."""
    assert running.process.stdout is not None
    return running.process.stdout.read(16)
