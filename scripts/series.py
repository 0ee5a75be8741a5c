"""What the figures and the report are drawn from: a sweep's runs, seeds together, and the points that they come to."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.interval import half_width
from sfa.methods import METHODS
from sfa.methods.base import Look
from sfa.records import Overrides, Results
from sfa.runs import has_results, read_results, read_sweep, run_folder

BEFORE = Look("before the last task", {"color": "#004466", "linestyle": "none", "marker": "o", "markersize": 9})

Swept = list[tuple[Overrides, list[Results]]]  # overrides of a point of a sweep, its runs' results
Axis = Mapping[str, Sequence[str]]  # a domain's name, and the evaluations that its score is the mean of


@dataclass(frozen=True)
class Point:
    """A run over its seeds and orders: mean scores on two domains, half their 95 % intervals, the varied value."""

    value: Any
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


def points_of(index: Path) -> Swept:
    """The runs that a sweep's file lists, seeds and orders together. Those without results are left out, and so is a
    point of which a run diverged: the rest of its runs would not stand for it."""
    found: dict[str, tuple[Overrides, list[Results]]] = {}
    for run in read_sweep(index)["runs"]:
        folder = run_folder(index.parent, run["name"])
        if has_results(folder):
            found.setdefault(run["label"], (run["point"], []))[1].append(read_results(folder))
    diverged = [label for label, (_, runs) in found.items() if not all(_finite(run) for run in runs)]
    if diverged:
        print(f"not drawn, because a seed diverged: {', '.join(diverged)}")
    return [part for label, part in found.items() if label not in diverged]


def _finite(run: Results) -> bool:
    return all(math.isfinite(stage["l2_from_anchor"]) for stage in run["stages"])


def names(run: Results) -> list[str]:
    """The stream's tasks."""
    return [str(task["name"]) for task in run["config"]["tasks"]]


def is_alone(point: Mapping[str, Any]) -> bool:
    """Whether tasks are held back, so that a part of the stream is trained on."""
    return any(key.endswith((".evaluate_only", ".held_back")) for key in point)


def scores(run: Results, after: int) -> dict[str, float]:
    """A run's scores after one of its stages, counted like a list's items, by evaluation."""
    stage = run["stages"][after]["task"]
    return {row["evaluation"]: row["value"] for row in run["evaluations"] if row["after"] == stage}


def base_scores(run: Results) -> dict[str, float]:
    return {row["evaluation"]: row["value"] for row in run["evaluations"] if row["after"] == "base"}


def on_axis(found: Mapping[str, float], axis: Axis) -> float:
    """The mean over an axis's domains, each the mean over its evaluations."""
    return statistics.fmean(statistics.fmean(found[name] for name in evaluations) for evaluations in axis.values())


def has_losses(results: Swept, axis: Axis) -> bool:
    """Whether an evaluation of an axis is better if it is lower, like a loss, which may be above 1."""
    names = {name for evaluations in axis.values() for name in evaluations}
    rows = (row for _, runs in results for run in runs for row in run["evaluations"])
    return any(row.get("lower_is_better") and row["evaluation"] in names for row in rows)


def line(results: Swept, method: str, key: str | None, x: Axis, y: Axis) -> list[Point]:
    """The points of a method along one of its keys, in order: those that share the commonest values of its others.
    ``None``: the key that is varied most."""
    own = [(point, runs) for point, runs in results if point.get("method") == method and not is_alone(point)]
    key = key or max(varied(own, method).items(), key=lambda item: item[1], default=("", 0))[0]
    rest = [tuple(sorted((k, str(v)) for k, v in point.items() if k != key)) for point, _ in own]
    common = Counter(rest).most_common(1)
    kept = [part for part, other in zip(own, rest, strict=True) if other == common[0][0]] if common else []
    found = [point_of(point.get(key), [scores(run, -1) for run in runs], x, y) for point, runs in kept]
    return sorted(found, key=lambda p: order_of(p.value))


def varied(results: Swept, method: str) -> dict[str, int]:
    """How many values each of a method's keys takes."""
    own = [point for point, _ in results if point.get("method") == method]
    keys = dict.fromkeys(key for point in own for key in point if key.startswith(f"{method}."))
    return {key: len({str(point.get(key)) for point in own}) for key in keys}


def point_of(value: Any, found: Sequence[Mapping[str, float]], x: Axis, y: Axis) -> Point:
    xs, ys = [on_axis(part, x) for part in found], [on_axis(part, y) for part in found]
    spread = (half_width(xs), half_width(ys)) if len(found) > 1 else (0.0, 0.0)
    return Point(value, statistics.fmean(xs), statistics.fmean(ys), *spread)


def before_last(results: Swept, x: Axis, y: Axis) -> Point | None:
    """The model before the stream's last task, as sequential training made it: θ_o of the last stage."""
    plain = next((runs for point, runs in results if point == {"method": "sequential"}), [])
    found = [scores(run, -2) for run in plain if len(run["stages"]) > 1]
    return point_of(None, found, x, y) if found else None


def bounds(results: Swept, axis: Axis) -> tuple[float, float | None]:
    """The base's score on an axis, and that of models trained on each of its domains alone, if there are any."""
    every = [run for _, runs in results for run in runs]
    low = statistics.fmean(on_axis(base_scores(run), axis) for run in every)
    alone = [[scores(run, -1) for run in runs] for point, runs in results if is_alone(point)]
    if not alone:
        return low, None
    alone += [[scores(run, 0) for run in runs] for point, runs in results if point == {"method": "sequential"}]
    best = min if has_losses(results, axis) else max
    parts = [
        best(statistics.fmean(on_axis(found, {name: evaluations}) for found in runs) for runs in alone)
        for name, evaluations in axis.items()
    ]
    return low, statistics.fmean(parts)


def order_of(value: Any) -> float:
    """Where a value comes in its line; of weights, that of the last task."""
    if isinstance(value, list):
        return float(value[-1]) / sum(value)
    text = str(value).rstrip("abdehnoprstuv")
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def look(name: str) -> Look:
    """How a method is drawn, or the model before the last task, ``before``. One that is not registered here is grey."""
    if name == "before":
        return BEFORE
    return METHODS[name].look if name in METHODS else Look(style={"color": "0.4"})


def label(name: str) -> str:
    return look(name).title or name.replace("_", " ")


def shown(value: Any) -> str:
    return ":".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)
