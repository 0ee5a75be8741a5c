"""Draws two tasks' scores against each other, with a line a method (the paper's Figures 3 to 9).

python -m scripts.tradeoff runs/mnist.json --out results/figure9.png

The file lists the runs of a sweep. A panel for each key of SFA that the sweep varies, the other methods in all of them.
"""

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

STYLES: dict[str, dict[str, Any]] = {  # Okabe and Ito's colours; lines differ in grey as well
    "sfa": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "l1": {"color": "#56B4E9", "linestyle": "-.", "marker": "v"},
    "l2": {"color": "#009E73", "linestyle": ":", "marker": "s"},
    "ewc": {"color": "#E69F00", "linestyle": "--", "marker": "^"},
    "wise_ft": {"color": "#0072B2", "linestyle": "--", "marker": "D"},
    "task_arithmetic": {"color": "#CC79A7", "linestyle": "-.", "marker": "P"},
    "ties": {"color": "0.4", "linestyle": ":", "marker": "X"},
    "rehearsal": {"color": "#CC79A7", "linestyle": "none", "marker": "D"},
    "multitask": {"color": "black", "linestyle": "none", "marker": "*", "markersize": 13},
    "sequential": {"color": "#D55E00", "linestyle": "none", "marker": "o", "markersize": 9},
    "first task": {"color": "#0072B2", "linestyle": "none", "marker": "o", "markersize": 9},
}
NAMES = {"sfa": "SFA", "l1": "L1", "l2": "L2", "ewc": "EWC", "wise_ft": "WiSE-FT", "ties": "TIES"}


@dataclass(frozen=True)
class Point:
    """A run over its seeds: mean scores on two tasks, their standard deviations, and the value that is varied."""

    value: Any
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


Results = list[tuple[dict[str, Any], list[dict[str, Any]]]]  # overrides of a point of a sweep, its seeds' results


def points_of(index: Path) -> Results:
    """The runs that a sweep's file lists, seeds together. Those without results are left out, and so is a point of
    which a seed diverged: the rest of its seeds would not stand for it."""
    found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for run in json.loads(index.read_text())["runs"]:
        file = index.parent / run["name"] / "results.json"
        if file.is_file():
            found.setdefault(run["label"], (run["point"], []))[1].append(json.loads(file.read_text()))
    diverged = [label for label, (_, runs) in found.items() if not all(_finite(run) for run in runs)]
    if diverged:
        print(f"not drawn, because a seed diverged: {', '.join(diverged)}")
    return [part for label, part in found.items() if label not in diverged]


def _finite(run: dict[str, Any]) -> bool:
    return all(math.isfinite(stage["l2_from_anchor"]) for stage in run["stages"])


def draw(results: Results, x: str, y: str, out: Path) -> Path:
    """Writes the picture to ``out``; ``x`` and ``y`` are evaluations."""
    keys = [key for key, count in _varied(results, "sfa").items() if count > 1] or [""]
    figure, axes = plt.subplots(1, len(keys), figsize=(4.4 * len(keys), 4.2), squeeze=False, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        _panel(ax, results, key, x, y)
        ax.set_xlabel(x.replace("_", " "))
        title = {"sfa.beta": "SFA over β", "sfa.every": "SFA over batches between merges", "sfa.p": "SFA over p"}
        ax.set_title(title.get(key, key), fontsize=10)
    axes[0, 0].set_ylabel(y.replace("_", " "))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return out


def line(results: Results, method: str, key: str | None, x: str, y: str) -> list[Point]:
    """The points of a method along one of its keys, in order: those that share the commonest values of its others.
    ``None``: the key that is varied most."""
    own = [(point, runs) for point, runs in results if point.get("method") == method]
    key = key or max(_varied(own, method).items(), key=lambda item: item[1], default=("", 0))[0]
    rest = [tuple(sorted((k, str(v)) for k, v in point.items() if k != key)) for point, _ in own]
    common = Counter(rest).most_common(1)
    chosen = [part for part, other in zip(own, rest, strict=True) if other == common[0][0]] if common else []
    found = [_point(point.get(key), [_final(run) for run in runs], x, y) for point, runs in chosen]
    return sorted(found, key=lambda p: _number(p.value))


def _panel(ax: Axes, results: Results, key: str, x: str, y: str) -> None:
    sequential = [runs for point, runs in results if point == {"method": "sequential"}]
    if sequential:
        _plot(ax, "first task", [_point(None, [_after_first(run) for run in sequential[0]], x, y)])
    for method in dict.fromkeys(str(point.get("method")) for point, _ in results):
        _plot(ax, method, line(results, method, key if method == "sfa" else None, x, y))
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    ax.spines[["top", "right"]].set_visible(False)


def _plot(ax: Axes, name: str, points: Sequence[Point]) -> None:
    style = {"markersize": 5, "linewidth": 1.5, **STYLES.get(name, {})}
    xs, ys = [p.x for p in points], [p.y for p in points]
    ax.plot(xs, ys, label=NAMES.get(name, name.replace("_", " ")), **style)
    ax.errorbar(
        xs, ys, [p.dy for p in points], [p.dx for p in points], fmt="none", ecolor=style.get("color"), elinewidth=0.7
    )
    if len(points) > 2:
        for p in (points[0], points[-1]) if name == "sfa" else points[-1:]:
            ax.annotate(str(p.value), (p.x, p.y), textcoords="offset points", xytext=(5, 5), fontsize=7, color="0.3")


def _varied(results: Results, method: str) -> dict[str, int]:
    """How many values each of a method's keys takes."""
    own = [point for point, _ in results if point.get("method") == method]
    keys = dict.fromkeys(key for point in own for key in point if key.startswith(f"{method}."))
    return {key: len({str(point.get(key)) for point in own}) for key in keys}


def _point(value: Any, scores: Sequence[dict[str, float]], x: str, y: str) -> Point:
    xs, ys = [score[x] for score in scores], [score[y] for score in scores]
    spread = (statistics.stdev(xs), statistics.stdev(ys)) if len(scores) > 1 else (0.0, 0.0)
    return Point(value, statistics.fmean(xs), statistics.fmean(ys), *spread)


def _final(run: dict[str, Any]) -> dict[str, float]:
    return {row["task"]: row["value"] for row in run["evaluations"] if row["after"] == run["stages"][-1]["task"]}


def _after_first(run: dict[str, Any]) -> dict[str, float]:
    return {row["task"]: row["value"] for row in run["evaluations"] if row["after"] == run["stages"][0]["task"]}


def _number(value: Any) -> float:
    text = str(value).rstrip("abdehnoprstuv")
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="<save_folder>/<sweep>.json")
    parser.add_argument("--x", help="evaluation; the first if it is not given")
    parser.add_argument("--y", help="evaluation; the second")
    parser.add_argument("--out", type=Path, default=Path("tradeoff.png"))
    given = parser.parse_args()
    results = points_of(given.sweep)
    names = list(dict.fromkeys(row["task"] for row in results[0][1][0]["evaluations"]))
    print(draw(results, given.x or names[0], given.y or names[1], given.out))


if __name__ == "__main__":
    main()
