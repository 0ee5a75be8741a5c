"""The system calls that the sandbox allows, as a seccomp program. Others fail with ENOSYS."""

import errno
import functools
import os
import tempfile

# What CPython and its standard library need for computation, threads and files.
ALLOWED = (
    "read write readv writev pread64 pwrite64 lseek close close_range open openat dup dup2 dup3 pipe pipe2 "
    "sendfile copy_file_range stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat "
    "getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 truncate "
    "ftruncate fallocate fsync fdatasync chmod fchmod fchmodat utimensat umask poll ppoll select pselect6 "
    "epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 "
    "mmap munmap mprotect mremap madvise brk membarrier "
    "execve exit exit_group wait4 waitid getpid gettid getppid getpgrp getpgid getsid getuid geteuid getgid "
    "getegid getgroups getresuid getresgid getpriority getrusage times getrlimit setrlimit prlimit64 uname "
    "sched_yield sched_getaffinity futex set_robust_list get_robust_list set_tid_address rseq arch_prctl "
    "getrandom "
    "kill tgkill rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack "
    "restart_syscall pause alarm setitimer getitimer nanosleep clock_nanosleep clock_gettime clock_getres "
    "gettimeofday time "
)
CLONE_THREAD = 0x10000
CLONE_NAMESPACES = 0x7E020080
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. No locks, as the kernel does not limit their number.
FCNTL = (0, 1, 2, 3, 4, 1030)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)


@functools.cache
def program() -> bytes:
    """The filter as a BPF program for this machine's architecture, as bubblewrap's ``--seccomp`` reads it.

    Threads are allowed. Processes and namespaces are not, nor are sockets, memory outside of the address space (memfd,
    System V), io_uring, userfaultfd, ptrace and its relatives, mounts, keys and BPF.

    Raises:
        RuntimeError, ImportError: libseccomp or its Python binding is not installed.
    """
    import pyseccomp as seccomp  # type: ignore[import-untyped]  # raises where the library is not installed

    syscalls = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    for name in ALLOWED.split():
        syscalls.add_rule(seccomp.ALLOW, name)
    thread = seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD | CLONE_NAMESPACES, CLONE_THREAD)
    syscalls.add_rule(seccomp.ALLOW, "clone", thread)
    for name, commands in (("fcntl", FCNTL), ("ioctl", IOCTL)):
        for command in commands:
            syscalls.add_rule(seccomp.ALLOW, name, seccomp.Arg(1, seccomp.EQ, command))
    with tempfile.TemporaryFile() as file:
        syscalls.export_bpf(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return file.read()
