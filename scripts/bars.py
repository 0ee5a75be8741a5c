"""The average over all tasks at the end of a stream, a bar a method (the paper's Figure 1)."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from scripts.interval import half_width
from scripts.series import Swept, label, save
from sfa.records import Overrides, Results
from sfa.results import is_loss

COLOURS = {"sequential": "#C44E52", "task_arithmetic": "#0072B2", "wise_ft": "#E69F00", "sfa": "#009E73"}


def draw(results: Swept, out: Path) -> Path:
    """Writes the picture to ``out``. Rehearsal is a band, multitask training a star; whiskers are 95 % intervals."""
    figure, ax = plt.subplots(figsize=(max(4.5, 1.0 + 0.62 * len(results)), 4.0))
    bars = [part for part in results if part[0]["method"] not in ("rehearsal", "multitask")]
    for i, (point, runs) in enumerate(bars):
        mean, spread = _average(runs)
        colour = COLOURS.get(point["method"], "0.6")
        ax.bar(i, mean, yerr=spread, color=colour, edgecolor="0.2", linewidth=0.6, capsize=2)
        ax.text(i, mean + spread + 0.01, f"{mean:.2f}", ha="center", fontsize=8)
    replayed = [part for part in results if part[0]["method"] == "rehearsal"]
    past = sorted((point.get("rehearsal.fraction", 0.1), *_average(runs)) for point, runs in replayed)
    for fraction, mean, _ in past:
        ax.plot([-0.6, len(bars)], [mean, mean], color="#CC79A7", linestyle="--", linewidth=1.2)
        ax.text(len(bars) + 0.05, mean, f"rehearsal {fraction:.0%}", fontsize=8, va="center", color="#8A4A70")
    if len(past) > 1:
        ax.fill_between([-0.6, len(bars)], past[0][1], past[-1][1], color="#CC79A7", alpha=0.15)
    for _, runs in (part for part in results if part[0]["method"] == "multitask"):
        ax.plot(len(bars) + 0.2, _average(runs)[0], "k*", markersize=14)
        ax.text(len(bars), _average(runs)[0], "multitask", fontsize=8, va="center", ha="right")
    ax.set_xticks(range(len(bars)), [_name(point) for point, _ in bars], rotation=30, ha="right", fontsize=8)
    ax.set_xlim(-0.6, len(bars) + (1.2 if past else 0.5))
    losses = any(is_loss(run) for _, runs in results for run in runs)
    if not losses:
        ax.set_ylim(0, 1)
    ax.set_ylabel(f"average {'loss' if losses else 'accuracy'} over all tasks")
    ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, out)
    plt.close(figure)
    return out


def _average(runs: Sequence[Results]) -> tuple[float, float]:
    values = [run["metrics"]["average"] if run["metrics"] else math.nan for run in runs]
    return statistics.fmean(values), half_width(values) if len(values) > 1 else 0.0


def _name(point: Overrides) -> str:
    method = str(point["method"])
    settings = [f"{key.rpartition('.')[2]}={value}" for key, value in point.items() if key != "method"]
    return " ".join([label(method), *settings])
