"""Runs every method of the paper on one config over several seeds, in one process, and prints them side by side.

python -m scripts.methods yamls/quickstart.yaml --out results/methods.md
python -m scripts.methods yamls/quickstart.yaml --seeds 17 --methods sfa "l2 l2.strength=0.01" --set eval.limit=50

A method is one word, or a word with overrides of its own. Stages are shared: every average of WiSE-FT, every weight of
Task Arithmetic is only a merge. Starting again goes on from what is there.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train
from scripts.compare import grid
from sfa import config as configs
from sfa.machine import hardware

METHODS = [
    "sequential",
    "multitask",
    "rehearsal rehearsal.fraction=0.05",
    "rehearsal rehearsal.fraction=0.1",
    "sfa",
    "wise_ft",
    "task_arithmetic",
    "ties",
    "soup",
    "fisher",
    "l1",
    "l2",
    "ewc",
]
HEAD = ["method", "average", "forgetting", "seconds", "peak MiB", "stored examples", "L2 from anchor"]


def run_all(path: str, methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The results of every method and seed, each with the ``label`` of its method."""
    found = []
    for seed in seeds:
        for label in methods:
            word, *own = label.split()
            name = f"{Path(path).stem}-{label.replace(' ', '-').replace('=', '-')}-{seed}"
            arguments = [path, *overrides, f"method={word}", *own, f"seed={seed}", f"name={name}"]
            print(f"== {label}, seed {seed}", flush=True)
            if train.main(arguments) != 0:
                raise SystemExit(f"{label} with seed {seed} did not end well")
            folder = configs.load(path, arguments[1:]).save_folder / name
            found.append({"label": label, **json.loads((folder / "results.json").read_text())})
    return found


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a method, mean ± standard deviation over its seeds, the best average first."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_label.setdefault(run["label"], []).append(run)
    evaluations = list(dict.fromkeys(row["task"] for row in runs[0]["evaluations"]))
    lines = [[label, *_cells(group, evaluations)] for label, group in by_label.items()]
    lines.sort(key=lambda line: -float(line[1].split()[0]))
    head = [*HEAD[:3], *evaluations, *HEAD[3:]]
    return grid([head, *lines])


def _cells(group: list[dict[str, Any]], evaluations: Sequence[str]) -> list[str]:
    last = group[0]["stages"][-1]["task"]
    final = [{r["task"]: r["value"] for r in run["evaluations"] if r["after"] == last} for run in group]
    seconds = [sum(stage["seconds"] for stage in run["stages"]) for run in group]
    peak = [max(stage["peak_bytes"] for stage in run["stages"]) / 2**20 for run in group]
    stored = [max(stage["stored_examples"] for stage in run["stages"]) for run in group]
    moved = [run["stages"][-1]["l2_from_anchor"] for run in group]
    return [
        _spread([run["metrics"]["average"] for run in group], 3),
        _spread([run["metrics"]["forgetting"] for run in group], 3),
        *(_spread([values[name] for values in final], 3) for name in evaluations),
        *(_spread(values, digits) for values, digits in ((seconds, 0), (peak, 0), (stored, 0), (moved, 1))),
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and digits else mean


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--set", nargs="+", default=["eval.interval=null"], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    given = parser.parse_args(arguments)
    text = table(run_all(given.config, given.methods, given.seeds, given.overrides))
    print(f"\n{text}")
    if given.out:
        about = f"`python -m scripts.methods {shlex.join(arguments)}`, {hardware()}"
        given.out.write_text(f"{about}, {time.strftime('%Y-%m-%d')}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
