"""The texts of figures: what an axis shows, and the labels of points, moved apart."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from scripts.series import Axis, Swept, has_losses
from sfa.pictures import better

METRICS = {"acc": "accuracy", "loss": "loss, nats per token"}  # metrics whose names in results are short

MARGIN = 0.1  # of an axis beyond the least and the greatest share, with room for labels
HALO = withStroke(linewidth=2.5, foreground="white")  # keeps a label legible on an interval
SHADE = 0.75  # a label is this much darker than its mark, so that light colours are legible
MARK, NEAR = 7.0, 3.0  # half a mark; the distance at which a label has room, in pixels
DISTANCES = (8, 15, 24, 36, 50, 66)  # from a mark to its label, in pixels

Place = NDArray[np.float64]
Pair = tuple[float, float]


def of_axis(results: Swept, axis: Axis) -> str:
    """The label of an axis: its domains, the metric, and which way is better."""
    names = {name for evaluations in axis.values() for name in evaluations}
    rows = [row for _, runs in results for run in runs for row in run["evaluations"] if row["evaluation"] in names]
    metrics = dict.fromkeys(METRICS.get(row["metric"], row["metric"].replace("_", " ")) for row in rows)
    domains = [domain.replace("_", " ") for domain in axis]
    mean = f"mean of {' and '.join(domains)}" if len(domains) > 1 else domains[0]
    metric = next(iter(metrics)) if len(metrics) == 1 else "score"
    return f"{mean}: {metric}, {better(has_losses(results, axis))}"


def limit(results: Swept, axis: Axis, get: Callable[[], tuple[float, float]], change: Callable[..., object]) -> None:
    """Keeps an axis of scores to what a share may be, with room for labels: their intervals may be wider."""
    if not has_losses(results, axis):
        low, high = get()
        change(max(low, -MARGIN), min(high, 1 + MARGIN))


def fix_layout(figure: Figure) -> None:
    """Makes room for legends and axis labels now, and no more afterwards: places in the axes are final."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def spread(ax: Axes, texts: Sequence[Text], marks: Sequence[Pair], lines: Sequence[Sequence[Pair]]) -> None:
    """Moves the labels of points to where they cover neither each other nor a mark or a line, one after the other, each
    with a thin line to its point if it is not next to it. To be called when everything is drawn and the layout is
    fixed.

    Args:
        ax: the panel.
        texts: labels, each at its point.
        marks: where the marks are, in the coordinates of the data.
        lines: the ends and bends of lines.
    """
    to_data = ax.transData.inverted()
    boxes = [Bbox([mark - MARK, mark + MARK]) for mark in ax.transData.transform(marks)]
    taken = np.concatenate([*map(_inside, boxes), *(_along(ax.transData.transform(line)) for line in lines)])
    for text in texts:
        point = text.get_position()
        text.set(ha="center", va="center", path_effects=[HALO], color=np.array(to_rgb(text.get_color())) * SHADE)
        mark = ax.transData.transform(point)
        others = taken[np.abs(taken - mark).max(1) > MARK + 1]  # a label may be close to its own mark
        x, y = to_data.transform(_freest(mark, text.get_window_extent(), others, ax.bbox))
        text.set(x=x, y=y)
        box = text.get_window_extent()
        nearest = np.clip(mark, box.min, box.max)
        another = [_inside(box.padded(2))] * 2  # rather over a line than over another label
        taken = np.concatenate([taken, *another, _along(np.array([nearest, mark]))])
        if math.dist(nearest, mark) > 1.7 * DISTANCES[0]:
            ax.plot(*zip(to_data.transform(nearest), point, strict=True), color="0.55", linewidth=0.7, zorder=2)


def _freest(mark: Place, label: Bbox, taken: Place, panel: Bbox) -> Place:
    """Where to put the middle of a label: near its mark, within the panel, over as little as possible of what is taken.

    Args:
        mark: ``[2]``, in pixels, as all of these.
        label: its extent, anywhere.
        taken: ``[n, 2]``, places that it should not cover.
        panel: the extent of the axes.
    """
    angles = np.radians(np.arange(15, 375, 30))
    half = np.array([label.width, label.height]) / 2
    best, least = mark, math.inf
    for distance in DISTANCES:
        for direction in np.stack([np.cos(angles), np.sin(angles)], 1):
            middle = mark + direction / np.abs(direction).max() * (half + distance)
            beyond = np.abs(taken - middle) - half
            crowd = np.exp(-np.clip(beyond, 0, None).max(1) / NEAR).sum()
            outside = not (panel.contains(*(middle - half)) and panel.contains(*(middle + half)))
            cost = crowd + distance / 4 + 1e6 * outside
            if cost < least:
                best, least = middle, cost
    return best


def _inside(box: Bbox) -> Place:
    """Places all over a box, ``[n, 2]``."""
    xs, ys = np.linspace(box.x0, box.x1, 7), np.linspace(box.y0, box.y1, 3)
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)


def _along(line: Place, step: float = 6.0) -> Place:
    """Places on a line, at most ``step`` pixels apart."""
    places = [line[:1]]
    for a, b in itertools.pairwise(line):
        count = max(1, math.ceil(math.dist(a, b) / step))
        places.append(a + (b - a) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(places)
