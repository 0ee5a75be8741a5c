"""Whether a process waits again where it waited before, according to the kernel and not the process.

A program that shares an interpreter with its launcher can forge anything the launcher would output, so its output is
not evidence. Its interpreter waits in one call of ``read`` for the program, runs it, and waits in the same call again.
While a program runs, the frames of the interpreter's ``exec`` are on the stack: a ``read`` by the program has a stack
pointer well below the first one's, whatever Python code it runs, and one in another thread, or after ``execve``, is on
another stack. Only native code could move the pointer, and the sandbox has no ctypes.
"""

import time
from dataclasses import dataclass
from pathlib import Path

# Tolerated differences in bytes between stack pointers of the same call: it is deeper after threads have run (40 with
# glibc 2.36) and higher after the interpreter has specialized it (80 with CPython 3.11). A program's read is at least
# 560 deeper.
DEEPER, HIGHER = 128, 512


@dataclass(frozen=True)
class Place:
    """Where the first thread of a process waits: in which system call, on which descriptor, at which stack pointer."""

    call: int
    descriptor: int
    stack: int

    def is_at(self, earlier: "Place") -> bool:
        """Whether it is the same place of the program."""
        same = (self.call, self.descriptor) == (earlier.call, earlier.descriptor)
        return same and -DEEPER <= self.stack - earlier.stack <= HIGHER


def place(pid: int) -> Place | None:
    """Where a process currently waits.

    Returns:
        None if it does not wait in a system call.

    Raises:
        OSError: the process does not exist, or the kernel does not show it.
    """
    fields = Path(f"/proc/{pid}/syscall").read_text().split()
    if len(fields) < 9:
        return None
    return Place(int(fields[0]), int(fields[1], 16), int(fields[7], 16))


def waits(pid: int, until: float, at: Place | None = None) -> Place | None:
    """Polls until a process waits, and returns where.

    Args:
        pid: the process.
        until: ``time.monotonic()`` at which polling ends.
        at: the place at which it must wait; any by default.

    Returns:
        None if it does not wait there in time.

    Raises:
        OSError: as for :func:`place`, also if the process ends.
    """
    pause = 5e-5
    while time.monotonic() < until:
        current = place(pid)
        if current is not None and (at is None or current.is_at(at)):
            return current
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    return None
