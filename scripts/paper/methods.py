"""Every method's scores on two domains, optionally with its training time as the size of its mark."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from scripts.paper import labels
from scripts.series import (
    Axis,
    Point,
    Swept,
    format_value,
    label,
    look,
    main_key,
    point_of,
    scores,
    trains_on_part,
)
from sfa.methods import plain_method
from sfa.pictures import save, style
from sfa.records import Results
from sfa.values import Overrides

AREA = 60.0  # of a mark as expensive as sequential training, in points²
PALE = "0.82"


@dataclass(frozen=True)
class Setting:
    """A method at one of its settings.

    Attributes:
        point: its mean scores.
        further: its keys and values after the first one, which is the point's.
        cost: its training time as a multiple of sequential training's; 1 if it is not shown.
    """

    method: str
    point: Point
    further: Overrides
    cost: float

    @property
    def values(self) -> str:
        """What it is set to; empty if it has no setting."""
        first = [] if self.point.value is None else [format_value(self.point.value)]
        others = [f"{key.removeprefix(f'{self.method}.')} {format_value(v)}" for key, v in self.further.items()]
        return ", ".join([*first, *others])


@style()
def draw(results: Swept, x: Axis, y: Axis, out: Path, by_time: bool = False) -> Path:
    """Writes the picture to ``out``: a mark for each setting, labelled with its method's name and value; ``by_time``:
    as large as its training is long."""
    figure, ax = plt.subplots(figsize=(10.5, 8.0))
    settings = settings_of(results, x, y, by_time)
    _marks(ax, settings)
    shown = sorted(settings, key=lambda one: (not look(one.method).is_subject, -one.point.x - one.point.y))
    texts = []
    for one in shown:
        text = f"{label(one.method)} {one.values}".rstrip()
        texts.append(ax.text(one.point.x, one.point.y, text, fontsize=8.5, color=look(one.method).colour, zorder=5))
    _finish(ax, results, x, y)
    if by_time:
        ax.set_title("area of a mark: training time; a ring: sequential training's", fontsize=10)
    labels.fix_layout(figure)
    labels.spread(ax, texts, [(one.point.x, one.point.y) for one in settings], [])
    return save(figure, out)


@style()
def draw_each(results: Swept, x: Axis, y: Axis, folder: Path) -> Path:
    """Writes a picture for each method to ``folder``, named like it: its settings among those of all the others."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(results, x, y)
    for method in dict.fromkeys(one.method for one in settings):
        figure, ax = plt.subplots(figsize=(5.2, 3.8))
        own = [one for one in settings if one.method == method]
        others = [one for one in settings if one.method != method]
        ax.scatter([o.point.x for o in others], [o.point.y for o in others], s=22, color=PALE, linewidths=0)
        _marks(ax, own)
        texts = [
            ax.text(one.point.x, one.point.y, one.values, color=look(method).colour, zorder=5)
            for one in own
            if one.values
        ]
        _finish(ax, results, x, y)
        key = main_key(results, method).rpartition(".")[2]
        ax.set_title(f"{label(method)}{f', over {key}' if len(texts) > 1 else ''}", fontsize=10)
        labels.fix_layout(figure)
        labels.spread(ax, texts, [(one.point.x, one.point.y) for one in settings], [])
        figure.savefig(folder / f"{method}.png", dpi=110)
        plt.close(figure)
    return folder


def settings_of(results: Swept, x: Axis, y: Axis, by_time: bool = False) -> list[Setting]:
    """All settings of all methods that are trained on the whole stream."""
    plain = next((runs for point, runs in results if point == {"method": plain_method().name}), [])
    usual = _seconds(plain) if by_time and plain else None
    settings = []
    for point, runs in results:
        if trains_on_part(point):
            continue
        method = str(point["method"])
        values = {key: value for key, value in point.items() if key != "method"}
        first = next(iter(values), None)
        value = None if first is None else values.pop(first)
        place = point_of(value, [scores(run, -1) for run in runs], x, y)
        settings.append(Setting(method, place, values, _seconds(runs) / usual if usual else 1.0))
    return settings


def _seconds(runs: Sequence[Results]) -> float:
    return statistics.fmean(sum(stage["seconds"] for stage in run["stages"]) for run in runs)


def _marks(ax: Axes, settings: list[Setting]) -> None:
    for one in settings:
        kind = look(one.method)
        ax.errorbar(
            one.point.x, one.point.y, one.point.dy or None, one.point.dx or None,
            fmt="none", ecolor=kind.colour, elinewidth=0.8, alpha=0.25, zorder=1,
        )  # fmt: skip
        ax.scatter(one.point.x, one.point.y, s=AREA * one.cost, color=kind.colour, alpha=0.8, linewidths=0, zorder=3)
        ax.scatter(one.point.x, one.point.y, s=AREA, facecolors="none", edgecolors="0.25", linewidths=0.5, zorder=4)


def _finish(ax: Axes, results: Swept, x: Axis, y: Axis) -> None:
    ax.set_xlabel(labels.of_axis(results, x))
    ax.set_ylabel(labels.of_axis(results, y))
    ax.margins(0.1, 0.08)
    ax.autoscale_view()
    labels.limit(results, x, ax.get_xlim, ax.set_xlim)
    labels.limit(results, y, ax.get_ylim, ax.set_ylim)
