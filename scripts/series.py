"""The data behind figures and reports: a sweep's runs grouped over seeds, and their points."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.interval import mean_interval
from sfa.methods import METHODS, plain_method
from sfa.methods.base import Look
from sfa.records import Results
from sfa.runs import read_scored
from sfa.sweeps import SweepRun
from sfa.values import Overrides

BEFORE_LAST = Look("before the last task", {"color": "black", "linestyle": "none", "marker": "o", "markersize": 8})
LETTERS = {  # names of settings in figures
    "beta": "β",
    "strength": "λ",
    "every": "interval between merges",
    "weights": "weights, first : last",
}

Swept = list[tuple[Overrides, list[Results]]]  # (overrides, results of the runs) of each point of a sweep
Axis = Mapping[str, Sequence[str]]  # by domain, the evaluations whose mean is its score


@dataclass(frozen=True)
class Point:
    """Mean scores on two domains over seeds and orders, half their 95 % intervals, and the varied value."""

    value: Any
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


def points_of(runs: Sequence[SweepRun]) -> Swept:
    """Finished runs grouped over seeds and orders. Points of which a run diverged are omitted, since the others would
    not be representative."""
    by_label: dict[str, tuple[Overrides, list[Results]]] = {}
    for run in runs:
        by_label.setdefault(run.label, (run.point, []))[1].append(read_scored(run.folder))
    diverged = [label for label, (_, of_point) in by_label.items() if not all(map(_finite, of_point))]
    if diverged:
        print(f"not drawn, because a seed diverged: {', '.join(diverged)}")
    return [entry for label, entry in by_label.items() if label not in diverged]


def _finite(run: Results) -> bool:
    return all(math.isfinite(stage["l2_from_anchor"]) for stage in run["stages"])


def names(run: Results) -> list[str]:
    """The stream's tasks."""
    return [str(task["name"]) for task in run["config"]["tasks"]]


def trains_on_part(point: Mapping[str, Any]) -> bool:
    """Whether some tasks are only evaluated, so that a part of the stream is trained on."""
    return any(key.endswith((".evaluate_only", ".held_back")) for key in point)


def scores(run: Results, after: int) -> dict[str, float]:
    """A run's scores, by evaluation, after the stage with index ``after``."""
    stage = run["stages"][after]["task"]
    return {row["evaluation"]: row["value"] for row in run["evaluations"] if row["after"] == stage}


def base_scores(run: Results) -> dict[str, float]:
    return {row["evaluation"]: row["value"] for row in run["evaluations"] if row["after"] == "base"}


def on_axis(values: Mapping[str, float], axis: Axis) -> float:
    """The mean over an axis's domains, each the mean over its evaluations."""
    return statistics.fmean(statistics.fmean(values[name] for name in evaluations) for evaluations in axis.values())


def has_losses(results: Swept, axis: Axis) -> bool:
    """Whether lower is better for an evaluation of an axis, as for losses, which may exceed 1."""
    names = {name for evaluations in axis.values() for name in evaluations}
    rows = (row for _, runs in results for run in runs for row in run["evaluations"])
    return any(row.get("lower_is_better") and row["evaluation"] in names for row in rows)


def line(results: Swept, method: str, key: str | None, x: Axis, y: Axis) -> list[Point]:
    """The points of a method along one of its keys, sorted; only runs with the most common values of the
    other keys are included. ``key=None``: the key with the most values."""
    of_method = [
        (point, runs) for point, runs in results if point.get("method") == method and not trains_on_part(point)
    ]
    key = key or main_key(of_method, method)
    others = [tuple(sorted((k, str(v)) for k, v in point.items() if k != key)) for point, _ in of_method]
    common = Counter(others).most_common(1)
    selected = (
        [entry for entry, other in zip(of_method, others, strict=True) if other == common[0][0]] if common else []
    )
    points = [point_of(point.get(key), [scores(run, -1) for run in runs], x, y) for point, runs in selected]
    return sorted(points, key=lambda p: order_of(p.value))


def main_key(results: Swept, method: str) -> str:
    """The key of a method with the most values; empty if the runs set none."""
    trained = [(point, runs) for point, runs in results if not trains_on_part(point)]
    return max(varied(trained, method).items(), key=lambda item: item[1], default=("", 0))[0]


def varied(results: Swept, method: str) -> dict[str, int]:
    """The number of values of each of a method's keys."""
    points = [point for point, _ in results if point.get("method") == method]
    keys = dict.fromkeys(key for point in points for key in point if key.startswith(f"{method}."))
    return {key: len({str(point.get(key)) for point in points}) for key in keys}


def point_of(value: Any, finals: Sequence[Mapping[str, float]], x: Axis, y: Axis) -> Point:
    (mean_x, dx), (mean_y, dy) = (mean_interval([on_axis(final, axis) for final in finals]) for axis in (x, y))
    return Point(value, mean_x, mean_y, dx, dy)


def before_last(results: Swept, x: Axis, y: Axis) -> Point | None:
    """The model before the stream's last task under sequential training: θ_o of the last stage."""
    plain_runs = next((runs for point, runs in results if point == {"method": plain_method().name}), [])
    finals = [scores(run, -2) for run in plain_runs if len(run["stages"]) > 1]
    return point_of(None, finals, x, y) if finals else None


def bounds(results: Swept, axis: Axis) -> tuple[float, float | None]:
    """The base model's score on an axis, and the single-task models' if there are any."""
    all_runs = [run for _, runs in results for run in runs]
    low = statistics.fmean(on_axis(base_scores(run), axis) for run in all_runs)
    single = [[scores(run, -1) for run in runs] for point, runs in results if trains_on_part(point)]
    if not single:
        return low, None
    single += [[scores(run, 0) for run in runs] for point, runs in results if point == {"method": plain_method().name}]
    best = min if has_losses(results, axis) else max
    means = [
        best(statistics.fmean(on_axis(by_evaluation, {name: evaluations}) for by_evaluation in runs) for runs in single)
        for name, evaluations in axis.items()
    ]
    return low, statistics.fmean(means)


def order_of(value: Any) -> float:
    """A value's position along its line; for weights, the last task's share."""
    if isinstance(value, list):
        return float(value[-1]) / sum(value)
    text = str(value).rstrip("abdehnoprstuv")
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def look(name: str) -> Look:
    """How a method, or ``before`` (the model before the last task), is drawn. An unregistered method is grey."""
    if name == "before":
        return BEFORE_LAST
    return METHODS[name].look if name in METHODS else Look(style={"color": "0.4"})


def label(name: str) -> str:
    return look(name).title or name.replace("_", " ")


def format_value(value: Any) -> str:
    if isinstance(value, list):
        return ":".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting(key: str) -> str:
    """A setting's name in figures: its letter in the paper, if it has one."""
    name = key.rpartition(".")[2]
    return LETTERS.get(name, name)
