"""The average over all tasks at the end of a stream, one bar per method (the paper's Figure 1)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from scripts.interval import mean_interval
from scripts.paper.labels import HALO
from scripts.series import Swept, label, look
from sfa.methods import METHODS
from sfa.pictures import better, save, style
from sfa.records import Results
from sfa.stages.results import is_loss
from sfa.values import Overrides


@style()
def draw(results: Swept, out: Path) -> Path:
    """Writes the picture to ``out``: bars with 95 % intervals, if there are several seeds; a method shown as a band is
    a line across the bars for each value of its first key, one shown as a star is a mark next to them."""
    groups: dict[str, Swept] = {"bar": [], "band": [], "star": []}
    for entry in results:
        groups[look(entry[0]["method"]).in_bars].append(entry)
    bars = groups["bar"]
    figure, ax = plt.subplots(figsize=(max(5.0, 2.2 + 0.72 * len(bars)), 4.4))
    for i, (point, runs) in enumerate(bars):
        mean, half = _average(runs)
        ax.bar(i, mean, color=look(point["method"]).colour, alpha=0.85, width=0.75)
        if half:
            ax.errorbar(i, mean, half, fmt="none", ecolor="0.2", elinewidth=1.2, capsize=3)
        number: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 3), "ha": "center", "zorder": 5}
        ax.annotate(f"{mean:.2f}", (i, mean + half), path_effects=[HALO], **number)
    end = len(bars) - 0.4
    bands = sorted(((_first_value(point), *_average(runs), str(point["method"])) for point, runs in groups["band"]))
    marks = []
    for value, mean, _, method in bands:
        colour = look(method).colour
        ax.plot([-0.6, end], [mean, mean], color=colour, linestyle="--", linewidth=1.4, zorder=3)
        marks.append((mean, f"{label(method)} {value:.0%}", colour))
    if len(bands) > 1:
        ax.fill_between([-0.6, end], bands[0][1], bands[-1][1], color=look(bands[0][3]).colour, alpha=0.2, linewidth=0)
    for point, runs in groups["star"]:
        kind = look(point["method"])
        ax.plot(end, _average(runs)[0], color=kind.colour, marker=kind.marker, markersize=13, clip_on=False, zorder=4)
        marks.append((_average(runs)[0], label(point["method"]), kind.colour))
    ax.set_xticks(
        range(len(bars)), [_name(point) for point, _ in bars], rotation=30, ha="right", rotation_mode="anchor"
    )
    ax.set_xlim(-0.6, end)
    losses = any(is_loss(run) for _, runs in results for run in runs)
    if not losses:
        ax.set_ylim(0, 1)
    ax.set_ylabel(f"average {'loss' if losses else 'score'} over all tasks\n{better(losses)}")
    _beside(ax, marks)
    return save(figure, out)


def _beside(ax: Axes, marks: Sequence[tuple[float, str, str]]) -> None:
    """Texts to the right of the axes at their heights, one line's height apart or more."""
    low, high = ax.get_ylim()
    line = 0.06 * (high - low)
    below = -math.inf
    for height, text, colour in sorted(marks):
        below = max(height, below + line)
        place: dict[str, Any] = {"xytext": (14, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, (ax.get_xlim()[1], below), color=colour, annotation_clip=False, **place)


def _average(runs: Sequence[Results]) -> tuple[float, float]:
    values = [run["metrics"]["average"] if run["metrics"] else math.nan for run in runs]
    return mean_interval(values)


def _first_value(point: Overrides) -> float:
    """The value of the first key of the point's method, or its default."""
    kind = METHODS[point["method"]]
    key = next(iter(kind.model_fields))
    return float(point.get(f"{kind.name}.{key}", getattr(kind(), key)))


def _name(point: Overrides) -> str:
    method = str(point["method"])
    given = {key: value for key, value in point.items() if key != "method" and value is not None}
    settings = [f"{key.rpartition('.')[2]}={value}" for key, value in given.items()]
    return " ".join([label(method), *settings])
