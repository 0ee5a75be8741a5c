"""The limits of the sandbox's only process, set before untrusted code runs. Its source is prepended to the others'.

There cannot be other processes (see :mod:`eval.syscalls`), so these bound the whole sandbox.
"""

import resource
import sys


def limit(memory: int, file_size: int, threads: int, cpu_seconds: int) -> None:
    """Sets soft and hard limits: bytes of address space and of a file, threads, seconds of processor time."""
    limits = {"AS": memory, "FSIZE": file_size, "NPROC": threads, "CPU": cpu_seconds, "NOFILE": 64}
    limits |= dict.fromkeys(("CORE", "MEMLOCK", "MSGQUEUE", "SIGPENDING", "RTPRIO"), 0)
    for kind, value in limits.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (value, value))


if __name__ == "__main__":
    limit(*map(int, sys.argv[1:5]))
