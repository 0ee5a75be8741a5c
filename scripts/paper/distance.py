"""The distance from the anchor against the first domain's score, with their correlation (the paper's Figure 10)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from scripts.series import Axis, Swept, label, look, on_axis, scores
from sfa.curves import save


def draw(results: Swept, y: Axis, out: Path) -> Path:
    """Writes the picture to ``out``: every run a mark, SFA's means over p a line."""
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    points = pairs(results, y)
    means = []
    for method in ("sfa", "sequential"):
        own = {name: found for name, found in points.items() if name.split()[0] == method}
        style = {**look(method).style, "linestyle": "none", "alpha": 0.55, "markersize": 5}
        every = [pair for found in own.values() for pair in found]
        ax.plot(*zip(*every, strict=True), label=f"{label(method)}, a run a mark", **style)
        for name, found in own.items():
            middle = np.mean(found, 0)
            if method == "sfa":
                means.append(middle)
            text = name.removeprefix("sfa ")
            ax.annotate(text, middle, textcoords="offset points", xytext=(6, 6), fontsize=8, color="0.25")
    ax.plot(*zip(*sorted(map(tuple, means)), strict=True), color=look("sfa").style["color"], label="mean over seeds")
    r = correlation(results, y)
    ax.set_title(f"correlation {r:.2f}", fontsize=10)
    ax.set_xlabel("L2 distance from the model before the last task")
    ax.set_ylabel(", ".join(y).replace("_", " "))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, out)
    plt.close(figure)
    return out


def pairs(results: Swept, y: Axis) -> dict[str, list[tuple[float, float]]]:
    """Distance and score of every run of SFA and of sequential training, by label."""
    found = {}
    for point, runs in results:
        if point == {"method": "sequential"} or set(point) == {"method", "sfa.p"}:
            name = "sequential" if len(point) == 1 else f"sfa p={point['sfa.p']}"
            found[name] = [(float(run["stages"][-1]["l2_from_anchor"]), on_axis(scores(run, -1), y)) for run in runs]
    return found


def correlation(results: Swept, y: Axis) -> float:
    """Pearson's, over all runs."""
    every = np.array([pair for found in pairs(results, y).values() for pair in found])
    return float(np.corrcoef(every.T)[0, 1])
