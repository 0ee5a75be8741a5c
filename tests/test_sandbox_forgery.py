"""No verdict is forged: not of a completion, not of a whole program by what it says or does to its interpreter."""

import pytest

from eval import sandbox
from eval.tasks.humaneval import passed
from tests.hostile import USERS, needs_sandbox, true_for

# Each is followed by a failing assertion, at the end of the same program.
PROGRAMS = {
    "a call of what the frame above holds": """
import sys
frame = sys._getframe(1)
for name, value in {**frame.f_globals, **frame.f_locals}.items():
    if callable(value) and not isinstance(value, type) and name not in ("read", "leave", "_exit", "fail"):
        for arguments in ((), (0,), (b".",)):
            try: value(*arguments)
            except Exception: pass
""",
    "everything in the frames, written to every descriptor": """
import os, sys
said, frame = [b"."], sys._getframe()
while frame:
    said += [x for x in (*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts)
             if isinstance(x, (bytes, str))]
    frame = frame.f_back
for text in said:
    for fd in range(64):
        try: os.write(fd, text if isinstance(text, bytes) else text.encode())
        except OSError: pass
""",
    "a dot to every descriptor, and a wait on each": """
import os, threading
for fd in range(64):
    try: os.write(fd, b".")
    except OSError: pass
def wait(fd):
    try: os.read(fd, 2 ** 16)
    except OSError: pass
for fd in range(3, 12): threading.Thread(target=wait, args=(fd,), daemon=True).start()
wait(4)
""",
    "a dot, and a wait in the first thread": "import os\nfor fd in range(64):\n  try: os.write(fd, b'.')\n"
    "  except OSError: pass\n"
    "for fd in (3, 4, 5, 6):\n  try: os.read(fd, 2**16)\n  except OSError: pass\n",
    "a dot, and a wait where exceptions are shown": """
import os, sys
def hook(*_):
    for fd in range(64):
        try: os.write(fd, b".")
        except OSError: pass
    os.read(3, 2 ** 16)
sys.excepthook = hook
""",
    "a dot, and a wait where the interpreter ends": """
import atexit, os
def hook(*_):
    for fd in range(64):
        try: os.write(fd, b".")
        except OSError: pass
    os.read(3, 2 ** 16)
atexit.register(hook)
""",
    "a caught exception bound anew": "import builtins\nbuiltins.BaseException = builtins.Exception = KeyError\n",
    "the runner once more": """
import sys
frame = sys._getframe(1)
names = dict(frame.f_globals)
names["__name__"] = "__main__"
try: exec(frame.f_code, names)
except BaseException: pass
try: names["main"]()
except BaseException: pass
""",
    "another program": "import os, sys\n"
    "os.execv(sys.executable, [sys.executable, '-c', 'import os; os.write(1, b\".\"); "
    'os.write(4, b"."); os.read(3, 65536)\'])\n',
    "a jump over the assertion": """
import sys
def jump(frame, event, argument):
    if event == "line" and frame.f_lineno == LAST:
        frame.f_lineno = LAST + 1
    return jump
try:
    sys.settrace(jump)
    sys._getframe().f_trace = jump
except Exception:
    pass
""",
    "a search among all objects": """
import gc, sys
try:
    for value in gc.get_objects():
        if type(value).__name__ in ("map", "list_iterator", "generator"):
            for _ in range(99): next(value, None)
        if callable(value) and getattr(value, "__name__", "") in ("end", "done", "passed", "report", "<lambda>"):
            value()
except Exception:
    pass
""",
    "a patched interpreter": """
import ast, builtins, os, sys, threading
nothing = lambda *_, **__: None
for module in (builtins, os, sys, ast, threading):
    for name in "exec compile write read dup _exit exit kill excepthook enumerate AssertionError".split():
        if hasattr(module, name): setattr(module, name, nothing)
sys.modules["__main__"].__dict__.update(run=nothing, leave=nothing, exec=nothing)
""",
    "the runner's own names": "import sys\nframe = sys._getframe(1)\n"
    "frame.f_globals.update(os=None, fail=None, threading=None, exec=lambda *_: None)\n"
    "frame.f_locals.update(leave=lambda *_: None, run=lambda *_: None)\n",
    "another audit hook": "import sys\nsys.addaudithook(lambda *_: None)\n",
    "leaving": "import sys\nsys.exit(0)\n",
    "leaving by an exception": "raise SystemExit\n",
    "leaving at once": "import os\nos._exit(0)\n",
    "leaving when the interpreter ends": "import atexit, os\natexit.register(os._exit, 0)\n",
    "leaving from a thread": "import os, threading, time\nthreading.Thread(target=os._exit, args=(0,)).start()\n"
    "time.sleep(2)\n",
    "leaving from a finalizer": "import os\nclass A:\n  def __del__(self): os._exit(0)\na = A()\ndel a\n",
    "leaving from a signal": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: os._exit(0))\n"
    "signal.raise_signal(signal.SIGUSR1)\n",
    "leaving from the assertion": "import os, builtins\nclass A(Exception):\n  def __init__(self, *_): os._exit(0)\n"
    "builtins.AssertionError = A\n",
    "its own death": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "its parent's death": "import os\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass\n",
    "everyone's death": "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\n",
    "a child that ends well": "import os\ntry:\n  if os.fork() == 0: os._exit(0)\nexcept OSError: pass\n",
    "a child in its own session": "import os\ntry:\n  if os.fork() == 0:\n    os.setsid()\n"
    "    while True: pass\nexcept OSError: pass\n",
    "foreign functions": "import ctypes\nctypes.CDLL(None)._exit(0)\n",
    "its memory": "open('/proc/self/mem', 'r+b').write(b'x')\n",
    "closed descriptors": "import os\nos.closerange(0, 64)\n",
    "other descriptors": "import os\nr, w = os.pipe()\nfor fd in range(12):\n"
    "  if fd not in (r, w): os.dup2(w, fd)\nos.write(w, b'.' * 99)\n",
    "no stack left": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()\n",
    "another main module": "import sys, types\nsys.modules['__main__'] = types.ModuleType('__main__')\n"
    "sys.modules.clear()\n",
}
# Whole programs that fail without a failing last line.
FAILING = {
    "an assertion in a thread": "import threading\n"
    "t = threading.Thread(target=lambda: (_ for _ in ()).throw(AssertionError()))\n"
    "t.start(); t.join()",
    "an assertion in a thread that nobody waits for": "import threading, time\ndef f():\n  time.sleep(.2)\n"
    "  assert False\n"
    "threading.Thread(target=f).start()",
    "an assertion in a bare thread": "import _thread, time\ndef f(): assert False\n"
    "_thread.start_new_thread(f, ())\ntime.sleep(1)",
    "an assertion in a finalizer": "class A:\n  def __del__(self): assert False\nA()",
    "an assertion in a method that is run at the end": "def f(): assert False\nf()",
    "a lone surrogate": "x = '\ud800'",
    "a lone surrogate alone": "\udfff",
    "a NUL": "x = 1\0",
    "a NUL and more": "pass\0\nassert True",
    "a hundred megabytes": "#" * 10**8,
    "deep nesting": "(" * 10**5 + ")" * 10**5,
    "a deep expression": "-" * 10**6 + "1",
    "no code": "def (",
    "bad indentation": "if True:\npass",
    "an unknown encoding": "# coding: nothing\n\x00",
}
GOOD = {
    "nothing": "",
    "an assertion": "assert 1 + 1 == 2",
    "threads": "import threading\nx = []\nt = [threading.Thread(target=x.append, args=(i,)) for i in range(8)]\n"
    "for i in t: i.start()\nfor i in t: i.join()\nassert len(x) == 8",
    "output": "print('x' * 10**7)",
    "a file": "open('/tmp/x', 'w').write('x')\nassert open('/tmp/x').read() == 'x'",
    "a long program": "x = 0\n" + "x += 1\n" * 10**5 + "assert x == 10**5",
    "its own module": "import sys\nassert sys.modules['__main__'].__dict__ is globals() and __name__ == '__main__'",
    "classes": "import dataclasses, enum, typing, collections\n@dataclasses.dataclass\nclass A:\n  x: 'int' = 1\n"
    "N = typing.NamedTuple('N', [('a', int)])\nE = enum.Enum('E', 'A B')\nassert A().x == N(1).a == E.A.value",
    "the standard library": "import bisect, datetime, decimal, fractions, functools, hashlib, heapq, json, math, "
    "operator, random, re, statistics, string, sys, time, typing\nassert hashlib.md5(b'').hexdigest()[:4] == 'd41d'",
    "a caught assertion": "try:\n  assert False\nexcept AssertionError:\n  pass",
    "text of the world": "assert len('ü€😀') == 3",
}
BEFORE, AFTER = (
    "def f(x):\n",
    "\n\ndef check(candidate):\n    assert candidate(2) == 3\n    assert candidate(5) == 6\n\ncheck(f)\n",
)
TRUE = """
    class A(int):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        __hash__ = int.__hash__
    return A()
"""
COMPLETIONS = {
    "a value equal to all": TRUE,
    "an object equal to all": TRUE.replace("(int)", "").replace("__hash__ = int.__hash__", "__hash__ = None"),
    "a list equal to all": TRUE.replace("(int)", "(list)").replace("int.__hash__", "None"),
    "a callable": "    return f\n",
    "an argument": "    return x\n",
    "no tests": "    return 0\ndef check(candidate): pass\n",
    "tests put away in time": "    return 0\nimport threading, sys\ndef g():\n  while True:\n"
    "    globals()['check'] = lambda _: None\n"
    "threading.Thread(target=g, daemon=True).start()\n",
    "leaving": "    import os\n    os._exit(0)\n",
    "leaving while it is defined": "    return 0\nimport sys\nsys.exit(0)\n",
    "leaving by an exception": "    raise SystemExit(0)\n",
    "the end of an iteration": "    raise StopIteration\n",
    "a generator that is left": "    raise GeneratorExit\n",
    "the verdict on every descriptor": "    import os\n    for fd in range(64):\n      try: os.write(fd, b'passed')\n"
    "      except OSError: pass\n    return 0\n",
    "a message of its own": "    import json, os\n"
    "    text = json.dumps(['returned', [['object', 0, 'passed'], []]]).encode()\n"
    "    for fd in range(3, 64):\n      try: os.write(fd, len(text).to_bytes(8, 'big') + text)\n"
    "      except OSError: pass\n    return 0\n",
    "no message": "    import os\n    for fd in range(3, 64):\n      try: os.write(fd, bytes(8) + b'[]')\n"
    "      except OSError: pass\n",
    "an endless message": "    import os\n    for fd in range(3, 64):\n      try: os.write(fd, b'\\xff' * 64)\n"
    "      except OSError: pass\n",
    "a deep message": "    import os\n    text = b'[' * 10**5\n    for fd in range(3, 64):\n"
    "      try: os.write(fd, len(text).to_bytes(8, 'big') + text)\n      except OSError: pass\n    return 0\n",
    "an endless iterator": "    import itertools\n    return itertools.repeat(1)\n",
    "itself within itself": "    y = []\n    y.append(y)\n    return y\n",
    "a large number": "    return 10**10**6\n",
    "a patched worker": "    return 0\nimport sys\nm = sys._getframe(1).f_globals\nfor n in list(m):\n"
    "  if callable(m[n]): m[n] = lambda *_, **__: ['returned', [3, []]]\n",
    "no code": "    return (\n",
    "a lone surrogate": "    return '\ud800'\n",
    "a lone surrogate alone": "    \udfff\n",
    "a NUL": "    return 1\0\n",
    "a hundred megabytes": "    return 0 #" + "x" * 10**8,
    "an open string": "    return '''",
    "a comment that would swallow the tests": "    return 0\nif 0: '''",
    "nothing": "",
}


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_no_program_forges_a_pass(user: str) -> None:
    programs = {}
    for name, program in PROGRAMS.items():
        last = program.count("\n") + 1
        programs[name] = program.replace("LAST", str(last)) + "assert False\npass\n"
    assert true_for(programs, user, lambda program: sandbox.passes(program, seconds=2)) == []


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_what_fails_anywhere_fails(user: str) -> None:
    assert true_for(FAILING, user, lambda program: sandbox.passes(program, seconds=2)) == []


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_good_programs_pass(user: str) -> None:
    assert true_for(GOOD, user, sandbox.passes) == list(GOOD)


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
def test_no_completion_forges_a_pass(user: str) -> None:
    right = {"right": "    return x + 1\n", "also right": "    yield_ = x\n    return True + yield_\n"}
    cases = COMPLETIONS | right
    forged = true_for(cases, user, lambda completion: sandbox.solves(BEFORE, completion, AFTER, seconds=2))
    assert forged == list(right)


@needs_sandbox
def test_the_task_gives_every_completion_a_verdict() -> None:
    row = {"program": [BEFORE, AFTER]}
    assert passed(row, ["    return x + 1\n"]) == {"pass@1": 1.0}
    assert passed(row, ["    return x\n"]) == passed(row, ["    return '\ud800'\0\n"]) == {"pass@1": 0.0}


@needs_sandbox
def test_helpers_in_front_of_a_completion_are_the_tests_own() -> None:
    before = "def half(x):\n    return x / 2\n\n\ndef double(x):\n    '''Twice.'''\n"
    after = "\nassert half(double(6)) == 6\n"
    assert sandbox.solves(before, "    return half(x) * 4\n", after)
    assert sandbox.solves(before, "\ndef double(x):\n    return x + x\n", after)
    assert not sandbox.solves(before, "    return 0\n\ndef half(x):\n    return 6\n", after)
    assert not sandbox.solves(before, "\ndef half(x):\n    return 6\n", after)


@needs_sandbox
def test_the_worker_binds_no_name_of_the_tests() -> None:
    sends = """    return 0
import json, os
names, zero = {"abs": ["object", 0, "abs"], "f": ["object", 0, "f"]}, ["returned", [0, [None]]]
for message in (["returned", None], names, zero, zero, zero):
    text = json.dumps(message).encode()
    for fd in range(3, 9):
        try: os.write(fd, len(text).to_bytes(8, "big") + text)
        except OSError: pass
import time
time.sleep(1)
"""
    assert sandbox.solves("def f(x):\n", sends, "\nassert f(2) == 0\n")  # its messages are understood
    assert not sandbox.solves("def f(x):\n", sends, "\nassert abs(f(2) - 3) < 1e-6\n")
