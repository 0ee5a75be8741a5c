"""Kills runs at random moments, starts them again, and compares what they end with to an undisturbed run.

python -m tests.faults.kill --times 50 --seed 0

SIGKILL, at moments drawn from the whole length of a run: of a process, of one rank of two, of the launcher. A case is
lost if the second start fails, if a weight of any stage differs from the undisturbed run's by a bit, or if results.json
is not the same but for times and memory. Prints a line a case; exit code 1 if any was lost.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.faults import runs


def main() -> int:
    """Exit code: 0 no case was lost, 1 one was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="of which a fifth on two ranks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    forks = runs.context()
    rng = random.Random(args.seed)
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = {
            (method, ranks): _undisturbed(forks, folder / f"{method}{ranks}", method, ranks)
            for method, ranks in [*((method, 1) for method in runs.METHODS), ("sfa", 2)]
        }
        for case in range(args.times):
            ranks = 2 if case % 5 == 4 else 1
            method = "sfa" if ranks == 2 else runs.METHODS[case % len(runs.METHODS)]
            length, expected = whole[method, ranks]
            out = folder / "case"
            moment, victim = _kill_once(forks, out, method, ranks, rng, length)
            where = runs.state(out)
            code = _start(forks, out, method, ranks).wait()
            problem = f"exit code {code}" if code else runs.difference(expected, runs.content(out))
            lost += problem is not None
            line = f"{case + 1:>3}  {method:<10} {victim:<12} {moment:5.1f} s of {length:5.1f}  {where:<40}"
            print(line, problem or "the same", flush=True)
            shutil.rmtree(out)
    return runs.report(args.times, lost, "killed")


def _start(forks: Any, out: Path, method: str, ranks: int) -> runs.Process:
    return runs.start(forks, out, method) if ranks == 1 else runs.launch(out, method, ranks)


def _undisturbed(forks: Any, out: Path, method: str, ranks: int) -> tuple[float, dict[str, Any]]:
    """How long a run takes, seconds, and what it ends with."""
    start = time.monotonic()
    code = _start(forks, out, method, ranks).wait()
    length = time.monotonic() - start
    if code:
        raise RuntimeError(f"the undisturbed run of {method} on {ranks} ranks ended with exit code {code}")
    return length, runs.content(out)


def _kill_once(forks: Any, out: Path, method: str, ranks: int, rng: random.Random, length: float) -> tuple[float, str]:
    """Starts a run and kills it at a random moment; returns the moment, seconds, and who was killed. A run that ends
    before that moment was not killed: it is drawn again."""
    victim = "process" if ranks == 1 else rng.choice(["one rank", "launcher"])
    while True:
        moment = rng.uniform(0, length)
        run = _start(forks, out, method, ranks)
        if run.wait(moment) is None:
            break
        shutil.rmtree(out)
        length = moment
    ours = [process for process in psutil.process_iter() if _is_of(process, out)]
    if victim == "one rank":
        workers = [process for process in ours if process.pid != run.pid]
        if workers:
            rng.choice(sorted(workers, key=lambda process: process.pid)).kill()
        else:
            os.kill(run.pid, signal.SIGKILL)  # it has not started its ranks yet
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


if __name__ == "__main__":
    sys.exit(main())
