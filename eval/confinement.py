"""A bare Python in a bubblewrap sandbox: its file system, its limits, its start and end.

It is a single process, as its system calls cannot start another, so its total memory is bounded: :data:`MEMORY` of
address space, :data:`DISK` of files in ``/tmp``, the only writable folder, and kernel memory for 64 open files.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from eval import syscalls

NOBODY = 65534
MEMORY = 2**30  # bytes of address space
DISK, INODES = 2**24, 1000  # bytes and files of /tmp
THREADS = 16
START = 60.0  # seconds for a sandbox to start, even on a busy machine
INSIDE = {file.stem: file.read_text() for file in (Path(__file__).parent / "inside").glob("*.py")}

LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
# ctypes and the interpreter's test modules can bypass the interpreter, other packages may, and one module reveals where
# it was built. All of these are hidden.
HIDDEN = ("lib-dynload/_ctypes.*", "lib-dynload/_test*capi.*", "_sysconfigdata_*.py", "site-packages", "dist-packages")
# bubblewrap cannot limit the number of files in a tmpfs, so one is mounted before it starts, in a separate namespace.
MOUNT = f'mount -t tmpfs -o size={DISK},nr_inodes={INODES},mode=1777,noexec,nosuid,nodev tmpfs /tmp && exec "$@"'


class NotStarted(Exception):
    """A sandbox did not start. The message is its error output."""


@dataclass(frozen=True)
class Python:
    """An interpreter: its path in the sandbox, and the bubblewrap options that mount it there."""

    executable: str
    options: tuple[str, ...]


@dataclass
class Confined:
    """A Python in its sandbox."""

    process: "subprocess.Popen[bytes]"
    information: BinaryIO

    def pid(self) -> int:
        """The process id outside the sandbox."""
        status = self.information.read()
        if not status:
            raise NotStarted(self.kill_and_read_errors())
        return int(json.loads(status)["child-pid"])

    def kill_and_read_errors(self) -> str:
        """Kills the process and returns its error output."""
        self.process.kill()
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace").strip()

    @contextlib.contextmanager
    def ends_after(self, seconds: float) -> Iterator[None]:
        """Kills the process and its children if the block takes longer."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def pythons() -> Iterator[Python]:
    """The interpreters to try: the system's, whose paths reveal nothing, then this process's, mounted at
    ``/python``."""
    common: list[str] = []
    for path in LIBRARIES:
        if os.path.islink(path):
            common += ["--symlink", os.readlink(path), path]  # what is hidden must have only one path
        elif os.path.isdir(path):
            common += ["--ro-bind", path, path, *_hidden(path, path)]
    system = os.path.realpath("/usr/bin/python3")
    yield Python(system, (*common, "--ro-bind", system, system))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    options = [*common, "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    for folder in ("lib", "lib64"):
        if os.path.isdir(f"{sys.base_prefix}/{folder}"):
            options += ["--ro-bind", f"{sys.base_prefix}/{folder}", f"/python/{folder}"]
            options += _hidden(f"{sys.base_prefix}/{folder}", f"/python/{folder}")
    yield Python(f"/python/bin/{name}", (*options, "--ro-bind", f"{sys.base_prefix}/bin/{name}", f"/python/bin/{name}"))


@contextlib.contextmanager
def confined(
    python: Python, role: Sequence[str], seconds: float, stdin: int, stdout: int, others: Sequence[int] = ()
) -> Iterator[Confined]:
    """A Python that runs a file of ``eval/inside`` in its own sandbox, until the block ends.

    Args:
        python: the interpreter.
        role: the file's name and its arguments.
        seconds: processor time limit.
        stdin: descriptor (or ``subprocess.PIPE``) of its input.
        stdout: descriptor of its output, likewise.
        others: descriptors that it inherits under the same numbers.

    Raises:
        NotStarted: a required program or library is missing.
    """
    # RLIMIT_NPROC does not count root's processes, in any namespace.
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with contextlib.ExitStack() as stack:
        rules, rules_end = pipe(stack)
        information, information_end = pipe(stack)
        try:
            rules_end.write(syscalls.program())
            rules_end.close()
            process = subprocess.Popen(
                _command(python, role, seconds, rules.fileno(), information_end.fileno()),
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(rules.fileno(), information_end.fileno(), *others),
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd="/",
                **user,
            )
        except (OSError, ImportError, RuntimeError) as error:
            raise NotStarted(str(error)) from error
        rules.close()
        information_end.close()
        with process:
            try:
                yield Confined(process, information)
            finally:
                process.kill()


def pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """The unbuffered read and write ends of a pipe, closed by the stack."""
    read_end, write_end = os.pipe()
    return stack.enter_context(open(read_end, "rb", 0)), stack.enter_context(open(write_end, "wb", 0))


def _hidden(folder: str, shown_as: str) -> list[str]:
    """Options that hide parts of a library folder, which is mounted as ``shown_as``."""
    options: list[str] = []
    for pattern in HIDDEN:
        for path in sorted(Path(folder).glob(f"python3*/{pattern}")):
            path_inside = f"{shown_as}/{path.relative_to(folder)}"
            options += (
                ["--tmpfs", path_inside, "--remount-ro", path_inside]
                if path.is_dir()
                else ["--ro-bind", os.devnull, path_inside]
            )
    return options


def _command(python: Python, role: Sequence[str], seconds: float, rules: int, information: int) -> list[str]:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]
    command += ["bwrap", "--unshare-user", "--unshare-all", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    command += ["--as-pid-1", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--hostname", "sandbox", "--seccomp", str(rules), "--info-fd", str(information), *python.options]
    command += ["--dev-bind", os.devnull, os.devnull, "--bind", "/tmp", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    name, *arguments = role
    limits = [MEMORY, DISK, THREADS, math.ceil(seconds) + 1]
    # Ignores the environment and the working directory, has no site-packages and writes no bytecode.
    command += [python.executable, "-I", "-S", "-B", "-c", INSIDE["limits"] + INSIDE[name]]
    return command + [str(argument) for argument in (*limits, *arguments)]
