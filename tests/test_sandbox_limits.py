"""What a program can have: the stated memory, disk, threads and time, nothing of the host, few system calls."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval import sandbox, syscalls
from tests.hostile import USERS, as_user, needs_sandbox, true_for

# A program that passes got something. MORE is what nothing may have.
TAKES = {
    "memory": "x = bytearray(MORE)",
    "memory by parts": "x = [bytearray(2**24) for _ in range(MORE // 2**24)]",
    "shared memory": "import mmap\nx = [mmap.mmap(-1, 2**24) for _ in range(MORE // 2**24)]",
    "memory without a mapping": "import os\nos.memfd_create('x')",
    "memory in /dev/shm": "open('/dev/shm/x', 'wb').write(b'x')",
    "shared memory by name": "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('x', True, 1)",
    "memory of threads": "import threading\ndef f(): x.append(bytearray(2**27)); e.wait(1)\n"
    "x, e = [], threading.Event()\n"
    "for _ in range(9): threading.Thread(target=f).start()\ne.set()\nassert len(x) == 9",
    "memory of children": "import os\nif os.fork() == 0: os._exit(0)",
    "a larger limit": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))",
    "a hard limit that is larger": "import resource\nassert resource.getrlimit(resource.RLIMIT_AS)[1] > 2**30",
    "disk": "for i in range(64): open(f'/tmp/{i}', 'wb').write(bytes(2**20))",
    "disk by length": "import os\nos.posix_fallocate(os.open('/tmp/x', 66), 0, 2**25)",
    "disk of removed files": "import os\nx = []\nfor i in range(32):\n  x.append(open('/tmp/x', 'wb'))\n"
    "  x[-1].write(bytes(2**20))\n"
    "  x[-1].flush()\n  os.unlink('/tmp/x')",
    "files": "for i in range(1001): open(f'/tmp/{i}', 'w').close()",
    "folders": "import os\nfor i in range(1001): os.mkdir(f'/tmp/{i}')",
    "links": "import os\nopen('/tmp/x', 'w')\nfor i in range(1001): os.link('/tmp/x', f'/tmp/{i}')",
    "open files": "import os\nx = [os.open('/tmp', 0) for _ in range(65)]",
    "pipes that hold more": "import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1031, 2**20)",
    "locks": "import fcntl\nfcntl.lockf(open('/tmp/x', 'w'), fcntl.LOCK_EX, 1)",
    "threads": "import threading\ne = threading.Event()\n"
    "t = [threading.Thread(target=e.wait, args=(1,)) for _ in range(17)]\n"
    "for i in t: i.start()\ne.set()",
    "a thousand threads": "import _thread, time\nfor _ in range(1000): _thread.start_new_thread(time.sleep, (1,))",
    "a child": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)",
    "a child by posix_spawn": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})",
    "a child by multiprocessing": "import multiprocessing\np = multiprocessing.Process(target=int)\np.start()\n"
    "p.join()\n"
    "assert p.exitcode == 0",
    "a pseudo terminal": "import os\nos.openpty()",
    "a queue": "import multiprocessing\nmultiprocessing.Queue()",
    "files at the root": "open('/x', 'w')",
    "files in /dev": "open('/dev/x', 'w')",
    "files at home": "import os\nopen(os.path.expanduser('~/x'), 'w')",
    "a program of its own": "import os\nopen('/tmp/x', 'w').write('#!/usr/bin/python3')\nos.chmod('/tmp/x', 0o777)\n"
    "assert os.access('/tmp/x', os.X_OK)\nos.execv('/tmp/x', ['/tmp/x'])",
}
SEES = {
    "the host's name": "import os, socket\nassert 'NAME' in (os.uname().nodename, socket.gethostname())",
    "another name for itself": "import socket\nsocket.sethostname('x')",
    "processes": "import os\nassert os.listdir('/proc')",
    "mounts": "open('/proc/self/mountinfo')",
    "its memory": "open('/proc/self/mem')",
    "the system": "import os\nassert os.listdir('/sys')",
    "users": "import pwd\nassert pwd.getpwall()",
    "/etc": "import os\nassert os.listdir('/etc')",
    "/home": "import os\nassert os.listdir('/home')",
    "/root": "import os\nassert os.listdir('/root')",
    "/work": "import os\nassert os.listdir('/work')",
    "/usr/local": "import os\nassert os.listdir('/usr/local')",
    "other programs": "import os\nassert len(os.listdir('/usr/bin')) > 1",
    "other packages": "import os\nassert os.listdir('/usr/lib/python3/dist-packages')",
    "devices": "import os\nassert set(os.listdir('/dev')) - {'null'}",
    "a path of the host": "import sys\n"
    "assert any(word in str((sys.path, sys.argv, sys.orig_argv[:1], sys.executable, sys.prefix))\n"
    "           for word in ('/root', '/home', '/work', 'pyenv', 'venv'))",
    "the environment": "import os\nassert set(os.environ) - {'PWD', 'LC_CTYPE'}",
    "a disk": "import os\nos.statvfs('/')",
    "a network device": "import socket\nsocket.if_nameindex()",
    "a socket": "import socket\nsocket.socket()",
    "a unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/systemd/private')",
    "an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0x')",
    "a netlink socket": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "another user": "import os\nos.setuid(0)",
    "being root": "import os\nassert os.getuid() == 0",
    "a session": "import os\nos.setsid()",
    "a priority": "import os\nos.setpriority(0, 0, 5)",
    "foreign functions": "import ctypes",
    "a second way to foreign functions": "import glob\n"
    "open(glob.glob('/usr/lib/python3*/lib-dynload/_ctypes.*')[0]).read(1)",
    "kernel messages": "import os\nos.open('/dev/kmsg', 0)",
    "a handle": "import os\nos.pidfd_open(1)",
    "a namespace": "import os\nos.unshare(0x10000000)",
}
# What reaches further than a program in Python can, tried under the filter alone: calls and their arguments.
CALLS = {
    "io_uring_setup": [1, 0],
    "userfaultfd": [0],
    "unshare": [0x10000000],
    "setns": [0, 0],
    "mount": [0, 0, 0, 0, 0],
    "umount2": [0, 0],
    "pivot_root": [0, 0],
    "fsopen": [0, 0],
    "open_tree": [-100, 0, 0],
    "ptrace": [0, 0, 0, 0],
    "process_vm_readv": [1, 0, 0, 0, 0, 0],
    "process_vm_writev": [1, 0, 0, 0, 0, 0],
    "pidfd_open": [1, 0],
    "pidfd_getfd": [0, 0, 0],
    "kcmp": [1, 1, 0, 0, 0],
    "memfd_create": [0, 0],
    "memfd_secret": [0],
    "shmget": [0, 4096, 0o1600],
    "semget": [0, 1, 0o1600],
    "msgget": [0, 0o1600],
    "mq_open": [0, 0, 0, 0],
    "bpf": [0, 0, 0],
    "perf_event_open": [0, 0, -1, -1, 0],
    "keyctl": [0, 0, 0, 0, 0],
    "add_key": [0, 0, 0, 0, 0],
    "request_key": [0, 0, 0, 0],
    "open_by_handle_at": [0, 0, 0],
    "name_to_handle_at": [0, 0, 0, 0, 0],
    "socket": [1, 1, 0],
    "socketpair": [1, 1, 0, 0],
    "personality": [0xFFFFFFFF],
    "prctl": [3, 0, 0, 0, 0],
    "seccomp": [0, 0, 0],
    "clone": [17, 0, 0, 0, 0],
    "clone3": [0, 0],
    "fork": [],
    "vfork": [],
    "setsid": [],
    "chroot": [0],
    "sysinfo": [0],
    "syslog": [10, 0, 0],
    "statfs": [0, 0],
    "inotify_init1": [0],
    "fanotify_init": [0, 0],
    "timer_create": [0, 0, 0],
    "mknod": [0, 0, 0],
    "setxattr": [0, 0, 0, 0, 0],
    "iopl": [0],
    "modify_ldt": [0, 0, 0],
    "kexec_load": [0, 0, 0, 0],
    "init_module": [0, 0, 0],
    "swapon": [0, 0],
    "reboot": [0, 0, 0, 0],
    "acct": [0],
    "quotactl": [0, 0, 0, 0],
    "mbind": [0, 0, 0, 0, 0, 0],
    "move_pages": [0, 0, 0, 0, 0, 0],
    "landlock_create_ruleset": [0, 0, 0],
    "execveat": [-1, 0, 0, 0, 0],
    "fcntl": [0, 1031, 4096],
    "ioctl": [0, 0x5412, 0],
}
TRIES = """
import ctypes, errno, json, sys
import pyseccomp
CALLS = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
numbers = {name: pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) for name in CALLS}
rules = sys.stdin.buffer.read()
code = ctypes.create_string_buffer(rules, len(rules))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(rules) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
for name, arguments in CALLS.items():
    if numbers[name] < 0: continue  # not on this architecture
    ctypes.set_errno(0)
    if libc.syscall(numbers[name], *map(ctypes.c_long, arguments)) != -1 or ctypes.get_errno() != errno.ENOSYS:
        print(name, ctypes.get_errno(), flush=True)
print("tried")
"""


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_nothing_is_unbounded(user: str) -> None:
    programs = {name: program.replace("MORE", str(2**30)) for name, program in TAKES.items()}
    assert true_for(programs, user, sandbox.passes) == []


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_nothing_of_the_host_is_seen(user: str) -> None:
    programs = {name: program.replace("NAME", os.uname().nodename) for name, program in SEES.items()}
    assert true_for(programs, user, sandbox.passes) == []


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_a_completion_has_the_same_limits(user: str) -> None:
    takes = {
        name: TAKES[name].replace("MORE", str(2**30))
        for name in ("memory", "memory without a mapping", "files", "a child")
    }
    sees = {name: SEES[name] for name in ("mounts", "a socket", "foreign functions", "other programs", "being root")}

    def solves(program: str) -> bool:
        body = "".join(f"    {line}\n" for line in program.splitlines())
        return sandbox.solves("def f():\n", body + "    return True\n", "\nassert f()\n")

    assert true_for(takes | sees | {"nothing": "pass"}, user, solves) == ["nothing"]


@needs_sandbox
def test_the_filter_knows_no_other_system_calls() -> None:
    command = [sys.executable, "-c", TRIES, json.dumps(CALLS)]
    tried = subprocess.run(command, input=syscalls.program(), capture_output=True, check=False)
    assert tried.stdout.decode() == "tried\n", tried.stderr.decode()


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("how", ["passes", "solves"])
def test_nothing_is_left_when_time_is_up(how: str, user: str) -> None:
    mark = f"mark{os.getpid()}{how}{user}"
    loop = (
        f"import os, sys, threading\nos.execv(sys.executable, [sys.executable, '-c', 'while True: pass', '{mark}'])\n"
    )
    if how == "passes":
        passed = as_user(user, lambda: sandbox.passes(loop, seconds=1))
    else:
        passed = as_user(
            user, lambda: sandbox.solves("def f():\n", "    pass\n" + loop, "\nassert f() is None\n", seconds=1)
        )
    assert passed is False
    until = time.monotonic() + 10
    while mark in running() and time.monotonic() < until:
        time.sleep(0.05)
    assert mark not in running()


def running() -> str:
    """The arguments of all processes."""
    said = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said += file.read_bytes()
        except OSError:
            continue  # it has ended
    return said.decode(errors="replace")


@needs_sandbox
def test_descriptors_and_processes_of_the_host_are_given_back() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        sandbox.passes("assert True")
        sandbox.passes("assert False")
        sandbox.solves("def f():\n", "    return 1\n", "\nassert f() == 1\n")
    assert set(os.listdir("/proc/self/fd")) == before
