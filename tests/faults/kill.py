"""Kills runs at random moments, starts them again, and compares what they end with to an undisturbed run.

python -m tests.faults.kill --times 50 --seed 0

SIGKILL, at moments drawn from the whole length of a run: of a process, of one rank of two, of the launcher. A case is
lost if the second start fails, if a weight of any stage differs from the undisturbed run's by a bit, or if results.json
is not the same but for times and memory. Prints a line a case; exit code 1 if any was lost.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
COMPOSER = str(Path(sys.executable).with_name("composer"))
RUN = [
    "yamls/quickstart.yaml",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "train.max_duration=60ba",
    "train.save_interval=10ba",
    "eval.limit=40",
    "eval.interval=20ba",
]
MEASURED = ("seconds", "peak_bytes")  # of a stage, what two runs of the same differ in
METHODS = ("sfa", "wise_ft", "ewc", "rehearsal")


def main() -> int:
    """Exit code: 0 no case was lost, 1 one was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="of which a fifth on two ranks")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.chdir(ROOT)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "eval.harness", "sfa.run"])
    rng = random.Random(given.seed)
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = {
            (method, ranks): _undisturbed(context, folder / f"{method}{ranks}", method, ranks)
            for method, ranks in [*((method, 1) for method in METHODS), ("sfa", 2)]
        }
        for case in range(given.times):
            ranks = 2 if case % 5 == 4 else 1
            method = "sfa" if ranks == 2 else METHODS[case % 4]
            length, expected = whole[method, ranks]
            out = folder / "case"
            moment, victim = _kill_once(context, out, method, ranks, rng, length)
            where = _where(out)
            code = _run(context, out, method, ranks).wait()
            problem = f"exit code {code}" if code else _difference(expected, _content(out))
            lost += problem is not None
            told = f"{case + 1:>3}  {method:<10} {victim:<12} {moment:5.1f} s of {length:5.1f}  {where:<40}"
            print(told, problem or "the same", flush=True)
            shutil.rmtree(out)
    print(f"{given.times} killed, {lost} lost")
    return 1 if lost else 0


class _Process:
    """A run: a fork of a process that has imported everything, or the launcher with its ranks."""

    def __init__(self, process: Any):
        self.process = process
        self.pid: int = process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(timeout)
        code: int | None = self.process.exitcode
        return code


def _arguments(out: Path, method: str, ranks: int) -> list[str]:
    parallel = ["parallelism=ddp"] if ranks > 1 else []
    return [*RUN, f"method={method}", f"save_folder={out}", "name=run", *parallel]


def _run(context: Any, out: Path, method: str, ranks: int) -> _Process:
    arguments = _arguments(out, method, ranks)
    if ranks > 1:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [COMPOSER, "-n", str(ranks), "train.py", *arguments]
        return _Process(subprocess.Popen(command, start_new_session=True, **quiet))  # type: ignore[call-overload]
    process = context.Process(target=_train, args=(arguments,))
    process.start()
    return _Process(process)


def _train(arguments: list[str]) -> None:
    import train

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.exit(train.main(arguments))


def _undisturbed(context: Any, out: Path, method: str, ranks: int) -> tuple[float, dict[str, Any]]:
    """How long a run takes, seconds, and what it ends with."""
    start = time.monotonic()
    code = _run(context, out, method, ranks).wait()
    length = time.monotonic() - start
    if code:
        raise RuntimeError(f"the undisturbed run of {method} on {ranks} ranks ended with exit code {code}")
    return length, _content(out)


def _kill_once(
    context: Any, out: Path, method: str, ranks: int, rng: random.Random, length: float
) -> tuple[float, str]:
    """Starts a run and kills it at a random moment; returns the moment, seconds, and who was killed."""
    moment = rng.uniform(0, length)
    victim = "process" if ranks == 1 else rng.choice(["one rank", "launcher"])
    run = _run(context, out, method, ranks)
    if run.wait(moment) is not None:
        return moment, "nobody"
    ours = [process for process in psutil.process_iter() if _is_of(process, out)]
    if victim == "one rank":
        workers = [process for process in ours if process.pid != run.pid]
        if workers:
            rng.choice(sorted(workers, key=lambda process: process.pid)).kill()
        run.wait(120)
        _end(out)
    else:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        if victim == "launcher":
            time.sleep(rng.uniform(0, 2))  # its ranks go on without it for a while, until somebody ends them
            _end(out)
    return moment, victim


def _is_of(process: psutil.Process, out: Path) -> bool:
    try:
        return any(str(out) in word for word in process.cmdline())
    except psutil.Error:
        return False


def _end(out: Path) -> None:
    """Kills the ranks that are left."""
    for process in [process for process in psutil.process_iter() if _is_of(process, out)]:
        process.kill()
        process.wait(30)


def _where(out: Path) -> str:
    """What was there when it was killed."""
    done = len(list(out.glob("stages/*/manifest.json")))
    saved = len(list(out.glob("stages/*/checkpoints/*")))
    return f"{done} stages done, {saved} checkpoints"


def _content(out: Path) -> dict[str, Any]:
    """The bytes of all models, and results.json without what is measured."""
    models = {file.parent.parent.name: file.read_bytes() for file in out.glob("stages/*/model/model.safetensors")}
    results = json.loads((out / "run" / "results.json").read_text())
    results["config"].pop("save_folder")
    for stage in results["stages"]:
        for key in MEASURED:
            stage.pop(key)
    return {"models": models, "results": results}


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    if expected["models"].keys() != found["models"].keys():
        return "other stages"
    for name, content in expected["models"].items():
        if found["models"][name] != content:
            return f"other weights in {name}"
    return None if expected["results"] == found["results"] else "other results"


if __name__ == "__main__":
    sys.exit(main())
