"""Runs over several seeds as one table: what a method keeps, and what it costs."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.compare import grid
from sfa.sweep import SweepRun

Labelled = tuple[str, dict[str, Any]]  # label, content of results.json
HEAD = ["method", "average", "forgetting", "seconds", "peak MiB", "stored examples", "L2 from anchor"]
FEW = 6  # evaluations that get a column each


def finished(runs: Sequence[SweepRun]) -> list[Labelled]:
    """The results of those runs of a sweep that have any."""
    return [(run.label, json.loads(run.results.read_text())) for run in runs if run.results.is_file()]


def table(runs: Sequence[Labelled]) -> str:
    """Markdown: a row a label, mean ± standard deviation over its seeds, the best average first. Seconds are those of
    the stages of the run's own path, peak memory is the largest of theirs."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for label, run in runs:
        by_label.setdefault(label, []).append(run)
    evaluations = list(dict.fromkeys(row["task"] for row in runs[0][1]["evaluations"]))
    shown = evaluations if len(evaluations) <= FEW else []
    lines = [[label, *_cells(group, shown)] for label, group in by_label.items()]
    lines.sort(key=lambda line: -float(line[1].split()[0]))
    head = [*HEAD[:3], *shown, *HEAD[3:]]
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
    mean = f"{np.mean(values):.{digits}f}"  # not a number where a run diverged
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and digits else mean
