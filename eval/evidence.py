"""Whether a process is back where it waited before, told by the kernel and not by the process.

A program that shares an interpreter with what starts it can say whatever that would say, so it is not asked. Its
interpreter waits in one call of ``read`` for the program, runs it, and waits in the same call again. While a program
runs, the frames of the interpreter's own ``exec`` lie on the stack: a ``read`` of the program's has a stack pointer
well below the first one's, whatever Python code it runs, and one in another thread, or after ``execve``, is on another
stack. Only native code could move the pointer, and the sandbox keeps foreign functions away.
"""

import time
from dataclasses import dataclass
from pathlib import Path

# Bytes by which the stack pointers of one call differ: it is deeper once there were threads (40 of glibc 2.36), less so
# when the interpreter has specialized it (80 of CPython 3.11). Those of a program's read are 560 and more deeper.
DEEPER, HIGHER = 128, 512


@dataclass(frozen=True)
class Place:
    """Where the first thread of a process waits: in which system call, on which descriptor, at which stack pointer."""

    call: int
    descriptor: int
    stack: int

    def is_at(self, other: "Place") -> bool:
        """Whether it is the same place of the program."""
        same = (self.call, self.descriptor) == (other.call, other.descriptor)
        return same and -DEEPER <= self.stack - other.stack <= HIGHER


def place(pid: int) -> Place | None:
    """Where a process waits now.

    Returns:
        None if it does not wait in a system call.

    Raises:
        OSError: there is no such process, or the kernel does not tell.
    """
    said = Path(f"/proc/{pid}/syscall").read_text().split()
    if len(said) < 9:
        return None
    return Place(int(said[0]), int(said[1], 16), int(said[7], 16))


def waits(pid: int, until: float, at: Place | None = None) -> Place | None:
    """Where a process waits, as soon as it does.

    Args:
        pid: the process.
        until: ``time.monotonic()`` at which the search ends.
        at: the place at which it must wait; any by default.

    Returns:
        None if it does not come there in time.

    Raises:
        OSError: as for :func:`place`, which is so too when it ends.
    """
    pause = 5e-5
    while time.monotonic() < until:
        found = place(pid)
        if found is not None and (at is None or found.is_at(at)):
            return found
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    return None
