"""A bare Python in a bubblewrap sandbox: what it sees, what it may use, how it starts and ends.

It is one process, since its system calls start no other, so that all of its memory is at most :data:`MEMORY` of address
space, :data:`DISK` of files in ``/tmp``, the one place to write to, and what the kernel keeps for 64 open files.
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
START = 60.0  # seconds in which a sandbox has to come up, on a machine however busy
INSIDE = {file.stem: file.read_text() for file in (Path(__file__).parent / "inside").glob("*.py")}

LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
# Foreign functions and tests of the interpreter reach past it, other packages may, and one module knows where it was
# built. None of it is there.
HIDDEN = ("lib-dynload/_ctypes.*", "lib-dynload/_test*capi.*", "_sysconfigdata_*.py", "site-packages", "dist-packages")
# bubblewrap cannot bound the number of files of a tmpfs, so one is mounted before it, in a namespace of its own.
MOUNT = f'mount -t tmpfs -o size={DISK},nr_inodes={INODES},mode=1777,noexec,nosuid,nodev tmpfs /tmp && exec "$@"'


class NotStarted(Exception):
    """A sandbox did not come up. The message is what was said."""


@dataclass(frozen=True)
class Python:
    """An interpreter: where it is in the sandbox, and the options of bubblewrap that show it there."""

    executable: str
    shown: tuple[str, ...]


@dataclass
class Confined:
    """A Python in its sandbox."""

    process: "subprocess.Popen[bytes]"
    information: BinaryIO

    def pid(self) -> int:
        """What the process is called outside of its sandbox."""
        said = self.information.read()
        if not said:
            raise NotStarted(self.last_words())
        return int(json.loads(said)["child-pid"])

    def last_words(self) -> str:
        """Kills it, and gives what it said of its errors."""
        self.process.kill()
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace").strip()

    @contextlib.contextmanager
    def ends_after(self, seconds: float) -> Iterator[None]:
        """Kills it, and all that it started, if the block takes longer."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def pythons() -> Iterator[Python]:
    """The interpreters to try: the system's, whose paths say nothing, then this one's, shown at ``/python``."""
    common: list[str] = []
    for path in LIBRARIES:
        if os.path.islink(path):
            common += ["--symlink", os.readlink(path), path]  # what is hidden has one name only
        elif os.path.isdir(path):
            common += ["--ro-bind", path, path, *_hidden(path, path)]
    system = os.path.realpath("/usr/bin/python3")
    yield Python(system, (*common, "--ro-bind", system, system))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = [*common, "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    for folder in ("lib", "lib64"):
        if os.path.isdir(f"{sys.base_prefix}/{folder}"):
            own += ["--ro-bind", f"{sys.base_prefix}/{folder}", f"/python/{folder}"]
            own += _hidden(f"{sys.base_prefix}/{folder}", f"/python/{folder}")
    yield Python(f"/python/bin/{name}", (*own, "--ro-bind", f"{sys.base_prefix}/bin/{name}", f"/python/bin/{name}"))


@contextlib.contextmanager
def confined(
    python: Python, role: Sequence[str], seconds: float, stdin: int, stdout: int, others: Sequence[int] = ()
) -> Iterator[Confined]:
    """A Python that runs a file of ``eval/inside`` in a sandbox of its own, until the block ends.

    Args:
        python: which one.
        role: the file's name, and arguments to it.
        seconds: processor time that it may use.
        stdin: descriptor (or ``subprocess.PIPE``) of its input.
        stdout: the same of its output.
        others: descriptors that it keeps, under their numbers.

    Raises:
        NotStarted: a program or library that is needed is not there.
    """
    # Root's processes are not counted by RLIMIT_NPROC, whatever the namespace says.
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
    """The unbuffered ends of a pipe, to read and to write, which the stack closes."""
    read, write = os.pipe()
    return stack.enter_context(open(read, "rb", 0)), stack.enter_context(open(write, "wb", 0))


def _hidden(folder: str, shown: str) -> list[str]:
    """Options that cover what is not to be seen of a folder of libraries, shown under another name."""
    options: list[str] = []
    for pattern in HIDDEN:
        for path in sorted(Path(folder).glob(f"python3*/{pattern}")):
            there = f"{shown}/{path.relative_to(folder)}"
            options += ["--tmpfs", there, "--remount-ro", there] if path.is_dir() else ["--ro-bind", os.devnull, there]
    return options


def _command(python: Python, role: Sequence[str], seconds: float, rules: int, information: int) -> list[str]:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]
    command += ["bwrap", "--unshare-user", "--unshare-all", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    command += ["--as-pid-1", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--hostname", "sandbox", "--seccomp", str(rules), "--info-fd", str(information), *python.shown]
    command += ["--dev-bind", os.devnull, os.devnull, "--bind", "/tmp", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    name, *arguments = role
    limits = [MEMORY, DISK, THREADS, math.ceil(seconds) + 1]
    # Isolated from the environment and the working directory, without site-packages, writing no bytecode.
    command += [python.executable, "-I", "-S", "-B", "-c", INSIDE["limits"] + INSIDE[name]]
    return command + [str(argument) for argument in (*limits, *arguments)]
