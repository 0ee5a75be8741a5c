"""Draws scores over a stream's training steps: all evaluations of a run, or one evaluation of several runs."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfa.errors import UsageError
from sfa.methods import METHODS
from sfa.records import Results, StageRecord
from sfa.runs import read_results, read_scores_of
from sfa.values import flat

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito
MARKERS = "osD^vP"


def draw(runs: Sequence[Path], out: Path) -> Path:
    """Writes one panel per run folder to ``out``."""
    figure, axes = plt.subplots(len(runs), 1, figsize=(8, 0.6 + 2.4 * len(runs)), sharex=True, squeeze=False)
    for run, ax in zip(runs, axes[:, 0], strict=True):
        _panel(ax, run)
    axes[-1, 0].set_xlabel("training steps over the stream")
    entries = {label: line for ax in axes[:, 0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.14), "ncol": 5}
    axes[0, 0].legend(entries.values(), entries.keys(), frameon=False, fontsize=9, **place)
    figure.tight_layout()
    return save(figure, out)


def draw_together(runs: Sequence[Path], evaluation: str, out: Path) -> Path:
    """Writes one panel with an evaluation of every run to ``out``."""
    figure, ax = plt.subplots(figsize=(8, 4))
    labels = [_label(run) for run in runs]
    methods = [str(read_results(run)["config"]["method"]) for run in runs]
    for i, run in enumerate(runs):
        points, _, _ = curves(run)
        if evaluation not in points:
            raise UsageError(f"{run} has no evaluation {evaluation}: it has {', '.join(points)}")
        label = labels[i] if labels.count(labels[i]) == 1 else run.name
        style: dict[str, Any] = {**_style(i, methods), "markersize": 3.5, "linewidth": 1.6, "clip_on": False}
        ax.plot(*zip(*points[evaluation], strict=True), label=label, **style)
    ax.set_xlabel("training steps")
    ax.set_ylabel(evaluation.replace("_", " "))
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0))
    figure.tight_layout()
    return save(figure, out)


def _style(place: int, methods: Sequence[str]) -> dict[str, Any]:
    """Colour, dash and marker of the run at a place: those of its method, if no other run has the same method."""
    method = methods[place]
    if methods.count(method) > 1 or method not in METHODS:
        return {"color": COLOURS[place % 6], "marker": MARKERS[place % 6]}
    style = METHODS[method].look.style
    dash = style.get("linestyle", "-")
    colour = style.get("markeredgecolor", style.get("color", "0.4"))
    return {"color": colour, "linestyle": "-" if dash == "none" else dash, "marker": style.get("marker", "o")}


def _label(run: Path) -> str:
    """A run's method, and the tasks that are held back."""
    config = read_results(run)["config"]
    without = ", ".join(task["name"] for task in config["tasks"] if task["evaluate_only"])
    return str(config["method"]) + (f", all but {without}" if without else "")


def curves(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int], list[tuple[int, str]]]:
    """The points (step over the stream, score) of each evaluation of a run, its merges, and the start of each stage."""
    results = read_results(run)
    points: dict[str, list[tuple[int, float]]] = {}
    trained = {stage["task"] for stage in results["stages"]}
    for row in results["evaluations"]:
        if row["after"] not in trained:  # the base, or, after it, the tuned model that the stream starts from
            points[row["evaluation"]] = [(0, row["value"])]
    merges, starts, start = [], [], 0
    for stage in results["stages"]:
        for step, name, value in _scores(run, stage, results):
            points[name].append((start + step, value))
        merges += [start + step for step in stage["merge_steps"]]
        starts.append((start, stage["task"]))
        start += stage["steps"]
    return points, merges, [*starts, (start, "")]


def kind_of_scores(results: Results) -> str:
    """What a run's scores are, for an axis: which way is better."""
    losses = [bool(row.get("lower_is_better")) for row in results["evaluations"]]
    return "loss, lower is better" if all(losses) else "score, or loss" if any(losses) else "score, higher is better"


def _scores(run: Path, stage: StageRecord, results: Results) -> list[tuple[int, str, float]]:
    """Steps, evaluations and values of a stage's scores during training, ending with those of the run's results."""
    final = [r for r in results["evaluations"] if r["after"] == stage["task"]]
    names = {row["evaluation"] for row in final}
    rows = read_scores_of(run, stage["fingerprint"])
    during = [row for row in rows if not row["final"] and row["evaluation"] in names]
    return [
        *((row["step"], row["evaluation"], row["value"]) for row in during),
        *((stage["steps"], row["evaluation"], row["value"]) for row in final),
    ]


def _panel(ax: Axes, run: Path) -> None:
    results = read_results(run)
    points, merges, starts = curves(run)
    for merge in merges:
        ax.axvline(merge, color="0.75", linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    many = len(points) > len(COLOURS)
    for i, (name, all_points) in enumerate(points.items()):
        line = all_points
        style: dict[str, Any] = {"color": COLOURS[i % 6], "marker": MARKERS[i % 6], "label": name}
        if many:  # one colour per task, from its own stage on
            first_step = next((start for start, task in starts if name.startswith(f"{task}_")), 0)
            line = [(step, value) for step, value in all_points if step >= first_step]
            style = {"color": plt.get_cmap("turbo")(i / (len(points) - 1))}
        ax.plot(*zip(*line, strict=True), markersize=3.5, linewidth=1.0 if many else 1.6, clip_on=False, **style)
    for (start, task), (end, _) in itertools.pairwise(starts):
        ax.axvline(end, color="0.3", linewidth=0.8)
        place: dict[str, Any] = {
            "ha": "center",
            "va": "bottom",
            "fontsize": 8,
            "color": "0.3",
            "transform": ax.get_xaxis_transform(),
        }
        ax.text((start + end) / 2, 1.01, task.rpartition("_")[2] if many else f"training on {task}", **place)
    average = results["metrics"]["average"] if results["metrics"] else None
    method = results["config"]["method"]
    key = METHODS[method].headline if method in METHODS else ""
    value = flat(results["config"]).get(f"{method}.{key}")
    setting = f" {key}={value}" if value else ""
    title = f"{method}{setting}" + (f", average {average:.2f}" if average is not None else "")
    ax.set_ylabel(f"{kind_of_scores(results)}\n{title}", fontsize=9)
    if all(value <= 1 for line in points.values() for _, value in line):
        ax.set_ylim(-0.03, 1.02)
    ax.set_xlim(0, starts[-1][0])
    if merges:
        ax.plot([], [], color="0.75", linestyle=(0, (2, 2)), label="merge")


def save(picture: Figure, out: Path) -> Path:
    """Writes ``out``, a PNG, and the same figure as a PDF next to it, without frames, and closes it."""
    for ax in picture.axes:
        ax.spines[["top", "right"]].set_visible(False)
    picture.savefig(out, dpi=150)
    picture.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(picture)
    return out
