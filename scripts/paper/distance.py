"""The distance from the anchor against the first domain's score, with their correlation (the paper's Figure 10)."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.text import Text

from scripts.paper import labels
from scripts.series import Axis, Swept, label, look, on_axis, scores
from sfa.methods import plain_method
from sfa.pictures import save, style

SEQUENTIAL = plain_method().name


@style()
def draw(results: Swept, y: Axis, out: Path) -> Path:
    """Writes the picture to ``out``: a faint mark per run, a full one for their mean, and a line through SFA's means
    over p."""
    figure, ax = plt.subplots(figsize=(5.8, 5.0))
    points = distances_and_scores(results, y)
    texts: list[Text] = []
    marks: list[labels.Pair] = []
    lines: list[list[labels.Pair]] = []
    for method in ("sfa", SEQUENTIAL):
        kind = look(method)
        of_method = {name: pairs for name, pairs in points.items() if name.split()[0] == method}
        if not of_method:
            continue
        runs = [pair for pairs in of_method.values() for pair in pairs]
        means = [(float(x), float(y_mean)) for x, y_mean in (np.mean(pairs, 0) for pairs in of_method.values())]
        if len(runs) > len(means):
            ax.plot(*zip(*runs, strict=True), "o", color=kind.colour, alpha=0.35, markersize=4.5, clip_on=False)
        ax.plot(
            *zip(*sorted(means), strict=True), label=label(method), clip_on=False, **{"markersize": 7, **kind.style}
        )
        marks += [*runs, *means]
        lines.append(sorted(means))
        for name, mean in zip(of_method, means, strict=True):
            if method == "sfa":
                texts.append(ax.text(*mean, name.removeprefix("sfa "), fontsize=9.5, color=kind.colour, zorder=5))
    ax.margins(0.08)
    value = correlation(results, y)
    if value is not None:
        ax.set_title(f"correlation {value:.2f}".replace("-", "−"))
    ax.set_xlabel("L2 distance from the model before the last task")
    ax.set_ylabel(labels.of_axis(results, y))
    labels.limit(results, y, ax.get_ylim, ax.set_ylim)
    several = any(len(pairs) > 1 for pairs in points.values())
    title = "mean over seeds; faint: each run" if several else None
    figure.legend(loc="outside lower center", ncol=2, title=title, title_fontsize=10)
    labels.fix_layout(figure)
    labels.spread(ax, texts, marks, lines)
    return save(figure, out)


def distances_and_scores(results: Swept, y: Axis) -> dict[str, list[tuple[float, float]]]:
    """Distance and score of each run of SFA and of sequential training, by label."""
    pairs_by_label = {}
    for point, runs in results:
        if point == {"method": SEQUENTIAL} or set(point) == {"method", "sfa.p"}:
            name = SEQUENTIAL if len(point) == 1 else f"sfa p={point['sfa.p']}"
            pairs_by_label[name] = [
                (float(run["stages"][-1]["l2_from_anchor"]), on_axis(scores(run, -1), y)) for run in runs
            ]
    return pairs_by_label


def correlation(results: Swept, y: Axis) -> float | None:
    """Pearson's correlation over all runs; ``None`` of fewer than three, or if one of the two never varies."""
    pairs = [pair for pairs in distances_and_scores(results, y).values() for pair in pairs]
    distances, finals = zip(*pairs, strict=True)
    if len(pairs) < 3 or len({*distances}) == 1 or len({*finals}) == 1:
        return None
    return statistics.correlation(distances, finals)
