"""The runs of a sweep, and what is measured of one."""

import math
from pathlib import Path

from scripts.paper.verdicts import Point
from sfa.records import Results
from sfa.runs import read_manifest_of, read_scored, read_sweep, run_folder, sweep_file


class Runs:
    """The runs that a sweep's file lists, by label.

    Attributes:
        first, second: what the first two tasks are about.
    """

    def __init__(self, folder: Path, sweep: str, first: str = "Math", second: str = "Law"):
        self.folder, self.first, self.second = folder, first, second
        self.runs: dict[str, list[tuple[list[int] | None, Results]]] = {}
        for run in read_sweep(sweep_file(folder, sweep))["runs"]:
            results = read_scored(run_folder(folder, run["name"]))
            self.runs.setdefault(run["label"], []).append((run.get("order"), results))

    def of(self, label: str, order: list[int] | None = None) -> list[Results]:
        """The results of a label, ordered by seed."""
        return [results for its_order, results in self.runs[label] if order is None or its_order == order]

    def averages(self, label: str) -> list[float]:
        """Mean final score over all tasks, one value per seed."""
        return [run["metrics"]["average"] if run["metrics"] else math.nan for run in self.of(label)]

    def first_distance(self, run: Results) -> float:
        """The L2 distance from θ_o of the second stage's weights, just before its first merge, or at its end without
        merges."""
        stage = run["stages"][1]
        if not stage["merge_steps"]:
            return stage["l2_from_anchor"]
        return read_manifest_of(run_folder(self.folder, run["name"]), stage["fingerprint"])["merges"][0]["l2_before"]

    def labels(self, method: str) -> list[str]:
        return [label for label in self.runs if label.split()[0] == method]


def score(run: Results, task: int, after: int) -> float:
    """A run's score on the task with index ``task`` after the stage with index ``after``; −1: the base model."""
    name = run["config"]["tasks"][task]["evals"][0]
    selected = run["config"]["eval"]["tasks"]
    stage = "base" if after == -1 else run["stages"][after]["task"]
    names = [name] if selected is None else selected[task : task + 1]
    (value,) = (row["value"] for row in run["evaluations"] if row["after"] == stage and row["evaluation"] in names)
    return float(value)


def final(run: Results) -> Point:
    """A run's final scores on the first two tasks."""
    last = len(run["stages"]) - 1
    return score(run, 0, last), score(run, 1, last)


def share_kept(run: Results) -> float:
    """The share of the gain on the first task that is left at the end."""
    base = score(run, 0, -1)
    return share(final(run)[0] - base, score(run, 0, 0) - base)


def share(part: float, gain: float) -> float:
    """``nan``, so that a claim is undecided, where nothing was gained."""
    return part / gain if gain else math.nan
