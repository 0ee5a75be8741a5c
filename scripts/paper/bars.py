"""The average over all tasks at the end of a stream, one bar per method (the paper's Figure 1)."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from scripts.interval import mean_interval
from scripts.series import Swept, label, look
from sfa.curves import save
from sfa.methods import METHODS
from sfa.records import Results
from sfa.stages.results import is_loss
from sfa.values import Overrides


def draw(results: Swept, out: Path) -> Path:
    """Writes the picture to ``out``: bars with 95 % intervals as whiskers; a method shown as a band is a line across
    the bars for each value of its first key, one shown as a star is a mark next to them."""
    figure, ax = plt.subplots(figsize=(max(4.5, 1.0 + 0.62 * len(results)), 4.0))
    groups: dict[str, Swept] = {"bar": [], "band": [], "star": []}
    for entry in results:
        groups[look(entry[0]["method"]).in_bars].append(entry)
    bars = groups["bar"]
    for i, (point, runs) in enumerate(bars):
        mean, half = _average(runs)
        ax.bar(i, mean, yerr=half or None, color=look(point["method"]).bar, edgecolor="0.2", linewidth=0.6, capsize=2)
        ax.text(i, mean + half + 0.01, f"{mean:.2f}", ha="center", fontsize=8)
    bands = sorted(((_first_value(point), *_average(runs), str(point["method"])) for point, runs in groups["band"]))
    for value, mean, _, method in bands:
        colour = look(method).bar
        ax.plot([-0.6, len(bars)], [mean, mean], color=colour, linestyle="--", linewidth=1.2)
        ax.text(len(bars) + 0.05, mean, f"{label(method)} {value:.0%}", fontsize=8, va="center", color="0.3")
    if len(bands) > 1:
        ax.fill_between([-0.6, len(bars)], bands[0][1], bands[-1][1], color=look(bands[0][3]).bar, alpha=0.15)
    for point, runs in groups["star"]:
        ax.plot(len(bars) + 0.2, _average(runs)[0], "k*", markersize=14)
        ax.text(len(bars), _average(runs)[0], label(point["method"]), fontsize=8, va="center", ha="right")
    ax.set_xticks(range(len(bars)), [_name(point) for point, _ in bars], rotation=30, ha="right", fontsize=8)
    ax.set_xlim(-0.6, len(bars) + (1.2 if bands else 0.5))
    losses = any(is_loss(run) for _, runs in results for run in runs)
    if not losses:
        ax.set_ylim(0, 1)
    ax.set_ylabel("average loss over all tasks, lower is better" if losses else "average accuracy over all tasks")
    figure.tight_layout()
    return save(figure, out)


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
    settings = [f"{key.rpartition('.')[2]}={value}" for key, value in point.items() if key != "method"]
    return " ".join([label(method), *settings])
