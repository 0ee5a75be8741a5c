"""Nothing of a run outlives it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from composer.utils import collect_env

from sfa import machine

ROOT = Path(__file__).parent.parent
PARENT = """
import multiprocessing, subprocess, sys, time
from sfa.orphans import end_with_parent, end_worker_with_parent
def child(name, kind):
    (end_worker_with_parent(0) if kind == "worker" else end_with_parent())
    open(name, "w").write(str(__import__("os").getpid()))
    time.sleep(600)
if __name__ == "__main__":
    name, kind = sys.argv[1:]
    if kind == "rank":
        code = "import sys; from sfa.orphans import end_with_parent; end_with_parent(); import os, time; " \\
               "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", code, name])
    else:
        multiprocessing.get_context("forkserver").Process(target=child, args=(name, kind)).start()
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["worker", "stage", "rank"])
def test_a_process_ends_with_the_one_that_started_it(kind: str, tmp_path: Path) -> None:
    script, pid_file = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script), str(pid_file), kind], env=environment)
    while not (pid_file.is_file() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int(pid_file.read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_composer_is_told_the_processor_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_env, "cpuinfo", collect_env.cpuinfo)
    monkeypatch.setattr(multiprocessing, "Process", None)
    collect_env.get_cpu_model.cache_clear()
    machine.name_processor()
    assert collect_env.get_cpu_model()
    collect_env.get_cpu_model.cache_clear()


@pytest.mark.parametrize(("number", "how"), [(signal.SIGTERM, ["--jobs", "2"]), (signal.SIGINT, ["--ranks", "2"])])
def test_a_sweep_that_is_stopped_stops_its_stages_and_says_how_to_go_on(
    number: int, how: list[str], tmp_path: Path
) -> None:
    file, runs = tmp_path / "long.yaml", tmp_path / "runs"
    mnist = ROOT / "yamls" / "mnist.yaml"
    file.write_text(f"config: {mnist}\nset: {{train.max_duration: 100000ba, train.save_interval: 5ba}}\n"
                    "seeds: [1, 2]\nruns: [{method: sequential}]\n")  # fmt: skip
    command = [sys.executable, "-m", "scripts.sweep", str(file), f"save_folder={runs}", "eval.limit=10", *how]
    sweep = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(runs.glob("stages/*/checkpoints/*")):
        assert sweep.poll() is None
        time.sleep(0.1)
    started = psutil.Process(sweep.pid).children(recursive=True)
    assert started
    sweep.send_signal(number)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert "Interrupted. To resume:\n  python -m scripts.sweep" in output
    _, left = psutil.wait_procs([process for process in started if process.is_running()], timeout=60)
    assert not left
    assert list(runs.glob("stages/*/checkpoints/*"))
