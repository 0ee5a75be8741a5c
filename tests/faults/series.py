"""Disturbs runs and sweeps in every way of a drawn series, starts them again, and compares with undisturbed ones.

python -m tests.faults.series --times 200 --seed 0
python -m tests.faults.series --times 1 --first 38 --keep runs/lost   # one case of it again

A case is a run of any method in one process or on two ranks, or a sweep over all methods, two stages at a time. It is
killed, stopped by SIGTERM, or has its folder deleted, at a moment drawn from its whole length, or is left to its end;
then something of it may be deleted: a finished stage, its checkpoints, prepared data, Fisher information, logits. The
same command is given again. A case is lost if that fails, if a weight of any stage differs by a bit from the
undisturbed one's, or if a results.json differs in more than times and memory. Prints a line a case; exit code 1 if any
was lost. Each case is drawn from the seed and its number alone.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfa.methods import METHODS as REGISTERED
from tests.faults import runs

METHODS = [name for name in runs.METHODS if "images" in REGISTERED[name].rows]
MNIST = [
    "yamls/mnist.yaml",
    "train.max_duration=40ba",
    "train.save_interval=4ba",
    "eval.interval=10ba",
    "eval.limit=50",
]
MNIST += ["ewc.examples=20", "fisher.examples=20", "ewc.strength=1"]
RANKS = ["parallelism=ddp", "parallelism=fsdp2"]
PARTS = {  # what may be deleted between two starts, by a pattern under the runs' folder
    "a stage": "stages/[0-9a-f]*",
    "checkpoints": "stages/*/checkpoints",
    "data": "data/*",
    "Fisher information": "stages/*/fisher-*",
    "logits": "stages/*/logits-*",
    "nothing": "",
}


def main() -> int:
    """Exit code: 0 no case was lost, 1 one was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=["run", "ranks", "sweep"], help="these cases alone")
    parser.add_argument("--keep", type=Path, help="folder for what is left of lost cases")
    args = parser.parse_args()
    forks = runs.context()
    lost, whole = 0, {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.first, args.first + args.times):
            rng = random.Random(f"{args.seed} {number}")
            kind = rng.choices(["run", "ranks", "sweep"], [6, 1, 3])[0]
            what = {"run": rng.choice(METHODS), "ranks": rng.choice(RANKS), "sweep": "all methods"}[kind]
            if args.kind not in (None, kind):
                continue
            out = Path(name) / "case"

            def start(kind: str = kind, what: str = what, out: Path = out) -> runs.Process:
                return _start(forks, kind, what, out)

            if (kind, what) not in whole:
                whole[kind, what] = _undisturbed(start, out)
            length, expected = whole[kind, what]
            disturbed = _disturb(start, out, rng, length)
            deleted = _delete(out, rng)
            code = start().wait()
            problem = f"exit code {code}" if code else runs.difference(expected, _content(out))
            lost += problem is not None
            line = f"{number:>4}  {kind:<6} {what:<20} {disturbed:<28} {deleted:<30}"
            print(line, problem or "the same", flush=True)
            if problem and args.keep:
                shutil.copytree(out, args.keep / str(number), dirs_exist_ok=True)
            _remove(out)
    return runs.report(args.times, lost, "disturbed")


def _start(forks: Any, kind: str, what: str, out: Path) -> runs.Process:
    if kind == "run":
        return runs.start(forks, out, what, arguments=MNIST)
    if kind == "ranks":
        return runs.launch(out, "ewc", 2, [*MNIST, what])
    out.mkdir(parents=True, exist_ok=True)
    file = out.with_name("all.yaml")
    config = {"config": str(runs.ROOT / MNIST[0]), "seeds": [17], "runs": [{"method": list(METHODS)}]}
    file.write_text(json.dumps(config))
    process = forks.Process(target=_sweep, args=([str(file), *MNIST[1:], f"save_folder={out}", "--jobs", "2"],))
    process.start()
    return runs.Process(process)


def _sweep(arguments: list[str]) -> None:
    from scripts import sweep

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.exit(sweep.main(arguments))


def _undisturbed(start: Callable[[], runs.Process], out: Path) -> tuple[float, dict[str, Any]]:
    """How long a case takes, seconds, and what it ends with."""
    begun = time.monotonic()
    code = start().wait()
    if code:
        raise RuntimeError(f"the undisturbed case ended with exit code {code}")
    measured = time.monotonic() - begun, _content(out)
    _remove(out)
    return measured


def _disturb(start: Callable[[], runs.Process], out: Path, rng: random.Random, length: float) -> str:
    """Starts a case and disturbs it once; returns what was done, and when."""
    how, moment = rng.choice(["killed", "killed", "stopped", "deleted", "left alone"]), rng.uniform(0, length)
    process = start()
    if how == "left alone" or process.wait(moment) is not None:
        process.wait()
        return "left alone"
    if how == "deleted":
        _remove(out)
        process.wait()
    else:
        os.kill(process.pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
        process.wait()
    return f"{how} at {moment:.1f} s of {length:.1f}"


def _delete(out: Path, rng: random.Random) -> str:
    part = rng.choice(list(PARTS))
    folders = sorted(path for path in out.glob(PARTS[part]) if path.is_dir()) if PARTS[part] else []
    if not folders or rng.random() < 0.2:
        return "nothing deleted"
    _remove(rng.choice(folders))
    return f"{part} deleted"


def _remove(folder: Path) -> None:
    """Deletes a folder that another process may still be writing to."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _content(out: Path) -> dict[str, Any]:
    """The weights of all stages that the results name, and the results without what is measured."""
    results = {}
    for file in sorted(out.glob("*/results.json")):
        content = json.loads(file.read_text())
        content["config"].pop("save_folder")
        content.pop("arguments")  # they name it, too
        for stage in content["stages"]:
            for key in runs.MEASURED:
                stage.pop(key, None)
        results[file.parent.name] = content
    names = {stage["fingerprint"] for content in results.values() for stage in content["stages"]}
    models = {name: (out / "stages" / name / "model" / "model.safetensors").read_bytes() for name in sorted(names)}
    return {"models": models, "results": results}


if __name__ == "__main__":
    sys.exit(main())
