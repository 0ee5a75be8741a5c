"""Runs generated code in a bubblewrap sandbox, or not at all.

Inside: no network, nothing of the host but a read-only Python, an empty environment, a small ``/tmp`` of its own, and
limits on time, memory, processes and file sizes. A program passes if it runs to its end: only then is a random token,
which it was never shown, written back. That an exit code is 0 proves nothing. The sandbox protects the host; a program
that searches its own process for the token could still forge a pass.
"""

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

MEMORY, FILES, PROCESSES = 2**30, 2**24, 32
NOBODY = 65534

# The program is executed with its input and output closed, after the functions that report the end were put aside.
RUNNER = f"""
import os, resource, sys
source = sys.stdin.buffer.read()
write, report = os.write, os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(null, stream)
for kind, limit in (("AS", {MEMORY}), ("FSIZE", {FILES}), ("NPROC", {PROCESSES}), ("NOFILE", 64), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (limit, limit))
token, _, program = source.partition(b"\\n")
def run(code, end):
    exec(code, {{"__name__": "__main__"}})
    end()
run(compile(program, "program", "exec"), lambda: write(report, token))
"""


class NoSandbox(Exception):
    """No sandbox works on this machine."""


def passes(program: str, seconds: float = 10.0) -> bool:
    """Whether a Python program runs to its end without an error, in the sandbox.

    Args:
        program: source code.
        seconds: wall-clock time after which it is killed, with all its processes.

    Raises:
        NoSandbox: none works here; the message says how to get one.
    """
    found = _sandbox()
    if found is None:
        raise NoSandbox(
            "generated code runs in a sandbox or not at all, and bubblewrap does not work here. Install it (apt-get "
            "install bubblewrap, dnf install bubblewrap) and allow user namespaces; as root, the user nobody must be "
            "able to run python3. Or leave humaneval out of eval.tasks."
        )
    return _ends(found, program, seconds)


@functools.cache
def works() -> bool:
    """Whether there is a sandbox on this machine."""
    return _sandbox() is not None


@functools.cache
def _sandbox() -> tuple[str, ...] | None:
    """The command in front of the runner, with the first Python that it can start."""
    prefix = Path(sys.base_prefix)
    own = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python, folders in ((own, [prefix]), (Path("/usr/bin/python3"), [])):
        shown = [folder for folder in (Path("/usr"), Path("/lib"), Path("/lib64"), *folders) if os.path.exists(folder)]
        command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
        for folder in shown:
            command += ["--ro-bind", str(folder), str(folder)]
        command += ["--proc", "/proc", "--dev", "/dev", "--size", str(4 * FILES), "--tmpfs", "/tmp", "--chdir", "/tmp"]
        command += [str(python), "-I", "-B", "-c", RUNNER]
        if _ends(tuple(command), "assert 1 + 1 == 2", seconds=10) and not _ends(tuple(command), "assert False", 10):
            return tuple(command)
    return None


def _ends(command: tuple[str, ...], program: str, seconds: float) -> bool:
    token = secrets.token_hex(16).encode()
    # Root's processes are not counted by RLIMIT_NPROC, whatever the namespace says.
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/", **user
        )
    except (FileNotFoundError, PermissionError):
        return False  # no bubblewrap
    assert process.stdin is not None and process.stdout is not None
    with process, contextlib.suppress(BrokenPipeError):
        timer = threading.Timer(seconds, process.kill)  # its death ends all that it started
        timer.start()
        try:
            process.stdin.write(token + b"\n" + program.encode())
            process.stdin.close()
            return bool(process.stdout.read(len(token)) == token)
        finally:
            timer.cancel()
            process.kill()
    return False
