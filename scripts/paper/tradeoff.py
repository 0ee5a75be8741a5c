"""Two domains' scores against each other, one line or mark per method (the paper's Figures 3 to 9)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text

from scripts.paper import labels
from scripts.series import (
    Axis,
    Point,
    Swept,
    before_last,
    bounds,
    format_value,
    label,
    line,
    look,
    main_key,
    names,
    setting,
    trains_on_part,
    varied,
)
from sfa.pictures import save, style

WIDTH, HEIGHT = 5.4, 5.2  # of a panel with its share of the legend, in inches


@dataclass(frozen=True)
class Panel:
    """What a panel shows: points of a sweep on two domains, with a title if there are several panels."""

    results: Swept
    x: Axis
    y: Axis
    title: str = ""
    key: str = ""  # the setting that is varied along the line of the method that the figure is about


@dataclass
class Drawn:
    """The labels of a panel's points, the lines and marks that they must not cover, and, by method, the setting that
    they are values of."""

    texts: list[Text] = field(default_factory=list)
    marks: list[labels.Pair] = field(default_factory=list)
    lines: list[list[labels.Pair]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


@style()
def draw(panels: Sequence[Panel], out: Path) -> Path:
    """Writes the picture to ``out``, with a panel for each of ``panels`` and, within it, for each varied key of the
    method that the figures are about. Dashed lines are the scores of the base and, if there are any, of single-task
    models; bars are 95 % intervals. Each point has the value of its method's setting."""
    shown = [one for panel in panels for one in _by_key(panel)]
    same_axes = all((panel.x, panel.y) == (shown[0].x, shown[0].y) for panel in shown)
    size = (max(5.8, WIDTH * len(shown)), HEIGHT)
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, sharex=same_axes, sharey=same_axes)
    drawn = []
    for ax, panel in zip(axes[0], shown, strict=True):
        drawn.append(_draw(ax, panel))
        ax.set_xlabel(labels.of_axis(panel.results, panel.x))
        if ax is axes[0, 0] or not same_axes:
            ax.set_ylabel(labels.of_axis(panel.results, panel.y))
        ax.set_title(panel.title)
    entries = {name: handle for ax in axes[0] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    settings = {name: [content.settings[name] for content in drawn if name in content.settings] for name in entries}
    names_shown = [f"{name} ({', '.join(dict.fromkeys(of))})" if of else name for name, of in settings.items()]
    columns = min(len(entries), max(2, 2 * len(shown)))
    figure.legend(entries.values(), names_shown, loc="outside lower center", ncol=columns, handlelength=2.8)
    labels.fix_layout(figure)
    for ax, content in zip(axes[0], drawn, strict=True):
        labels.spread(ax, content.texts, content.marks, content.lines)
    return save(figure, out)


def stream_title(results: Swept, x: Axis, y: Axis) -> str:
    """The stream's domains in order, by the names on the axes."""
    domain_of = {name: domain for axis in (y, x) for domain, evaluations in axis.items() for name in evaluations}
    run = next(runs[0] for point, runs in results if not trains_on_part(point))
    tasks = [task["evals"] or [task["name"]] for task in run["config"]["tasks"]]
    domains = [domain_of.get(evaluations[0], name) for evaluations, name in zip(tasks, names(run), strict=True)]
    return " → ".join(domains)


def _by_key(panel: Panel) -> list[Panel]:
    """The panel once for each varied key of the method that the figures are about."""
    subjects = dict.fromkeys(point["method"] for point, _ in panel.results if look(point["method"]).is_subject)
    several = [(name, key) for name in subjects for key, count in varied(panel.results, name).items() if count > 1]
    if len(several) < 2:
        return [Panel(panel.results, panel.x, panel.y, panel.title, several[0][1] if several else "")]
    titles = [", ".join(filter(None, [panel.title, f"{label(name)}: {setting(key)}"])) for name, key in several]
    return [Panel(panel.results, panel.x, panel.y, title, key) for title, (_, key) in zip(titles, several, strict=True)]


def _draw(ax: Axes, panel: Panel) -> Drawn:
    results, x, y = panel.results, panel.x, panel.y
    drawn = Drawn()
    across, up = bounds(results, x), bounds(results, y)
    for place, (low, high), labelled in ((ax.axvline, across, True), (ax.axhline, up, False)):
        thin = {"linewidth": 1, "zorder": 0}
        place(low, color="0.5", linestyle=(0, (1, 2)), label="base model" if labelled else None, **thin)
        if high is not None:
            place(high, color="0.4", linestyle=(0, (6, 3)), label="one domain alone" if labelled else None, **thin)
    before = before_last(results, x, y)
    if before is not None:
        _plot(ax, "before", "", [before], drawn)
    for method in dict.fromkeys(str(point["method"]) for point, _ in results if not trains_on_part(point)):
        key = panel.key if look(method).is_subject and panel.key else main_key(results, method)
        _plot(ax, method, key, line(results, method, key or None, x, y), drawn)
    ax.margins(0.1, 0.08)
    ax.autoscale_view()
    labels.limit(results, x, ax.get_xlim, ax.set_xlim)
    labels.limit(results, y, ax.get_ylim, ax.set_ylim)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    drawn.lines += [[(value, bottom), (value, top)] for value in across if value is not None]
    drawn.lines += [[(left, value), (right, value)] for value in up if value is not None]
    return drawn


def _plot(ax: Axes, name: str, key: str, points: Sequence[Point], drawn: Drawn) -> None:
    """A method's line or marks over their intervals, and its labels, yet to be moved apart."""
    kind = look(name)
    front = 4 if kind.is_subject else 3
    for p in points:  # one seed has no interval
        widths: dict[str, Any] = {"xerr": p.dx or None, "yerr": p.dy or None}
        if p.dx or p.dy:
            ax.errorbar(p.x, p.y, fmt="none", ecolor=kind.colour, elinewidth=1.2, alpha=0.3, zorder=1, **widths)
    if any(p.value is not None for p in points):
        drawn.settings[label(name)] = setting(key)
    size = 5.5 if kind.is_subject else 7.5  # of two in one place, the lower one is visible
    properties: dict[str, Any] = {"markersize": size, **kind.style, "zorder": front, "clip_on": False}
    places = [(p.x, p.y) for p in points]
    ax.plot(*zip(*places, strict=True), label=label(name), **properties)
    drawn.marks += places
    if properties.get("linestyle") != "none":
        drawn.lines.append(places)
    for p in points:
        if p.value is not None:
            drawn.texts.append(ax.text(p.x, p.y, format_value(p.value), fontsize=9, color=kind.colour, zorder=5))
