"""Two domains' scores against each other, one line or mark per method (the paper's Figures 3 to 9)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from scripts.series import (
    Axis,
    Point,
    Swept,
    before_last,
    bounds,
    format_value,
    has_losses,
    label,
    line,
    look,
    trains_on_part,
    varied,
)
from sfa.curves import save

TITLES = {"sfa.beta": "SFA over β", "sfa.every": "SFA over batches between merges", "sfa.p": "SFA over p"}


def draw(results: Swept, x: Axis, y: Axis, out: Path) -> Path:
    """Writes the picture to ``out``, with one panel per varied key of the method that the figures are about. Dashed
    lines are the scores of the base and, if there are any, of single-task models; whiskers are 95 % intervals."""
    subjects = dict.fromkeys(point["method"] for point, _ in results if look(point["method"]).is_subject)
    keys = [key for name in subjects for key, count in varied(results, name).items() if count > 1] or [""]
    figure, axes = plt.subplots(1, len(keys), figsize=(max(5.2, 4.6 * len(keys)), 4.8), squeeze=False, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        _panel(ax, results, key, x, y)
        ax.set_xlabel(", ".join(x).replace("_", " "))
        if len(keys) > 1:
            ax.set_title(TITLES.get(key, key), fontsize=10)
    axes[0, 0].set_ylabel(", ".join(y).replace("_", " "))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = min(len(labels), 3 * len(keys))
    figure.legend(handles, labels, loc="lower center", ncol=columns, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.04 * -(-len(labels) // columns) + 0.01, 1, 1))
    return save(figure, out)


def _panel(ax: Axes, results: Swept, key: str, x: Axis, y: Axis) -> None:
    before = before_last(results, x, y)
    if before is not None:
        _plot(ax, "before", [before])
    for method in dict.fromkeys(str(point["method"]) for point, _ in results if not trains_on_part(point)):
        _plot(ax, method, line(results, method, key if look(method).is_subject else None, x, y))
    for axis, place, labelled in ((x, ax.axvline, "base"), (y, ax.axhline, "")):
        low, high = bounds(results, axis)
        place(low, color="0.5", linestyle=(0, (2, 3)), linewidth=1, zorder=0, label="base model" if labelled else None)
        if high is not None:
            name = "one domain alone" if labelled else None
            place(high, color="0.2", linestyle=(0, (6, 3)), linewidth=1, zorder=0, label=name)
    for axis, (low, high), limit in ((x, ax.get_xlim(), ax.set_xlim), (y, ax.get_ylim(), ax.set_ylim)):
        if not has_losses(results, axis):
            limit(max(low, -0.03), min(high, 1.03))  # scores are shares, even if their intervals are wider


def _plot(ax: Axes, name: str, points: Sequence[Point]) -> None:
    style: dict[str, Any] = {"markersize": 5, "linewidth": 1.5, **look(name).style}
    xs, ys = [p.x for p in points], [p.y for p in points]
    ax.plot(xs, ys, label=label(name), zorder=3 if look(name).is_subject else 2, **style)
    colour = style.get("markeredgecolor", style.get("color"))
    whiskers = {"fmt": "none", "ecolor": colour, "elinewidth": 0.6, "alpha": 0.6}
    if any(p.dx or p.dy for p in points):  # several seeds
        ax.errorbar(xs, ys, [p.dy for p in points], [p.dx for p in points], **whiskers)  # type: ignore[arg-type]
    if len(points) > 1:
        annotated = points if look(name).is_subject and len(points) < 8 else [points[0], points[-1]]
        for p in annotated:
            place = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": 7, "color": colour}
            ax.annotate(format_value(p.value), (p.x, p.y), **place)  # type: ignore[arg-type]
