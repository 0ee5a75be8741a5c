"""The distance from the anchor against the first domain's score, with their correlation (the paper's Figure 10)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from scripts.series import Axis, Swept, label, look, on_axis, scores
from sfa.curves import save
from sfa.methods import plain_method

SEQUENTIAL = plain_method().name


def draw(results: Swept, y: Axis, out: Path) -> Path:
    """Writes the picture to ``out``: a mark per run, and a line through SFA's means over p."""
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    points = distances_and_scores(results, y)
    means = []
    for method in ("sfa", SEQUENTIAL):
        of_method = {name: pairs for name, pairs in points.items() if name.split()[0] == method}
        style = {**look(method).style, "linestyle": "none", "alpha": 0.55, "markersize": 5}
        all_pairs = [pair for pairs in of_method.values() for pair in pairs]
        ax.plot(*zip(*all_pairs, strict=True), label=f"{label(method)}, one mark per run", **style)
        for name, pairs in of_method.items():
            mean = np.mean(pairs, 0)
            if method == "sfa":
                means.append(mean)
            annotation = name.removeprefix("sfa ")
            ax.annotate(annotation, mean, textcoords="offset points", xytext=(6, 6), fontsize=8, color="0.25")
    ax.plot(*zip(*sorted(map(tuple, means)), strict=True), color=look("sfa").style["color"], label="mean over seeds")
    r = correlation(results, y)
    ax.set_title(f"correlation {r:.2f}", fontsize=10)
    ax.set_xlabel("L2 distance from the model before the last task")
    ax.set_ylabel(", ".join(y).replace("_", " "))
    ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
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


def correlation(results: Swept, y: Axis) -> float:
    """Pearson's correlation over all runs."""
    all_pairs = np.array([pair for pairs in distances_and_scores(results, y).values() for pair in pairs])
    return float(np.corrcoef(all_pairs.T)[0, 1])
