"""Runs one whole program and then waits, which is its only result: see :mod:`eval.evidence`."""

import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType


def refuse(event: str, _: object) -> None:
    """An audit hook: raises for calls that let a program skip its own lines or search for objects it did not
    receive."""
    # Only constants, as names could be rebound.
    if event in {
        "sys.settrace",
        "sys.setprofile",
        "sys.monitoring.register_callback",
        "sys._current_frames",
        "sys._current_exceptions",
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
    }:
        1 / 0  # noqa: B018


def fail(_: object, leave: Callable[[int], object] = os._exit) -> None:
    """Ends the program with a failure if a thread or a finalizer fails."""
    leave(1)


def main() -> None:
    """Reads a program, which ends with a NUL, from descriptor 0, runs it, and reads on from where it read before."""
    # Locals, as a program can rebind every name of a module.
    read, write, leave, run = os.read, os.write, os._exit, exec
    orders, wakes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)
    module = sys.modules["__main__"] = ModuleType("__main__")
    threading.excepthook = sys.unraisablehook = fail
    sys.addaudithook(globals().pop("refuse"))  # not referenced by anything the program can reach
    write(wakes, b".")
    source = b""
    while True:
        source += read(orders, 2**16)  # the only place to wait, before and after the program
        if source.endswith(b"\0"):
            try:
                run(compile(source[:-1], "program", "exec"), module.__dict__)
                for thread in threading.enumerate():
                    if thread is not threading.main_thread() and not thread.daemon:
                        thread.join()
            except:  # noqa: E722 (a name could be rebound)
                leave(1)
                while True:  # never reaches interpreter shutdown, where the program's hooks would run
                    pass
            source = b""
            write(wakes, b".")


if __name__ == "__main__":
    main()
