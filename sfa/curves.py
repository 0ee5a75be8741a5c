"""Draws scores over a stream's training steps: all evaluations of a run, or one evaluation of several runs."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from sfa.errors import UsageError
from sfa.methods import METHODS
from sfa.methods.base import Look
from sfa.pictures import COLOURS, MARKERS, better, save, style
from sfa.records import Results, StageRecord
from sfa.runs import read_manifest_of, read_scored, read_scores_of
from sfa.values import flat

Points = list[tuple[int, float]]  # (step over the stream, value)

MERGE: dict[str, Any] = {"color": "0.75", "linewidth": 0.9, "linestyle": (0, (2, 2)), "zorder": 0}
ACROSS: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (1, 1.5)), "alpha": 0.7}  # from before a merge to after it
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))  # of runs of one method, after the first
HEIGHT, HEIGHT_OF_DISTANCE = 2.5, 1.0  # of a run's panels, in inches


@style()
def draw(runs: Sequence[Path], out: Path) -> Path:
    """Writes the scores of each run folder to ``out``, a panel per run; and, if merges of a run were recorded, each
    run's distance from θ_o below its scores."""
    moves = [distances(run) for run in runs]
    has_merges = any(len(points) > 2 for stages in moves for points in stages)
    kinds = (HEIGHT, HEIGHT_OF_DISTANCE) if has_merges else (HEIGHT,)
    figure, axes = plt.subplots(
        len(runs) * len(kinds),
        1,
        figsize=(8, 0.9 + sum(kinds) * len(runs)),
        sharex=True,
        squeeze=False,
        height_ratios=[*kinds] * len(runs),
    )
    panels = list(axes[:, 0])
    for run, ax in zip(runs, panels[:: len(kinds)], strict=True):
        _panel(ax, run)
    if has_merges:
        top = max(value for stages in moves for points in stages for _, value in points if math.isfinite(value))
        for run, stages, ax in zip(runs, moves, panels[1::2], strict=True):
            _distance_panel(ax, run, stages, top)
    panels[-1].set_xlabel("training steps over the stream")
    entries = {label: line for ax in panels for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncol=min(4, len(entries)))
    return save(figure, out)


@style()
def draw_together(runs: Sequence[Path], evaluation: str, out: Path) -> Path:
    """Writes one panel with an evaluation of every run to ``out``."""
    figure, ax = plt.subplots(figsize=(8, 4.4))
    labels = [_label(run) for run in runs]
    methods = [str(read_scored(run)["config"]["method"]) for run in runs]
    for i, run in enumerate(runs):
        points, merges, _ = curves(run)
        if evaluation not in points:
            raise UsageError(f"{run} has no evaluation {evaluation}: it has {', '.join(points)}")
        label = labels[i] if labels.count(labels[i]) == 1 else run.name
        _plot(ax, points[evaluation], merges, label=label, markersize=4.5, **_style(i, methods))
    losses = {
        bool(row.get("lower_is_better"))
        for run in runs
        for row in read_scored(run)["evaluations"]
        if row["evaluation"] == evaluation
    }
    ax.set_xlabel("training steps over the stream")
    ax.set_xlim(left=0)
    ax.set_ylabel(f"{evaluation.replace('_', ' ')}, {better(True in losses)}")
    figure.legend(loc="outside upper center", ncol=min(3, len(runs)))
    return save(figure, out)


def _style(place: int, methods: Sequence[str]) -> dict[str, Any]:
    """Colour, dash and marker of the run at a place: its method's colour, and, for the first run of a method, its dash
    and marker."""
    method = methods[place]
    look = _look(method)
    before = methods[:place].count(method)
    if not before:
        face = {"markerfacecolor": "white"} if look.is_hollow else {}
        return {"color": look.colour, "linestyle": look.dash, "marker": look.marker, **face}
    dash = DASHES[before % len(DASHES)]
    marker = {"marker": MARKERS[before % len(MARKERS)], "markerfacecolor": "white"}
    return {"color": look.colour, "linestyle": dash, **marker}


def _look(method: str) -> Look:
    return METHODS[method].look if method in METHODS else Look()


def _label(run: Path) -> str:
    """A run's method, and the tasks that are held back."""
    config = read_scored(run)["config"]
    without = ", ".join(task["name"] for task in config["tasks"] if task["evaluate_only"])
    return str(config["method"]) + (f", all but {without}" if without else "")


def curves(run: Path, during_training: bool = True) -> tuple[dict[str, Points], list[int], list[tuple[int, str]]]:
    """The points (step over the stream, score) of each evaluation of a run, its merges, and the start of each stage.

    Args:
        run: its folder.
        during_training: whether scores during the stages, which are stored with them, are among the points.
    """
    results = read_scored(run)
    points: dict[str, Points] = {}
    trained = {stage["task"] for stage in results["stages"]}
    for row in results["evaluations"]:
        if row["after"] not in trained:  # the base, or, after it, the tuned model that the stream starts from
            points[row["evaluation"]] = [(0, row["value"])]
    merges, starts, start = [], [], 0
    for stage in results["stages"]:
        for step, name, value in _scores(run, stage, results, during_training):
            points[name].append((start + step, value))
        merges += [start + step for step in stage["merge_steps"]]
        starts.append((start, stage["task"]))
        start += stage["steps"]
    return points, merges, [*starts, (start, "")]


def distances(run: Path) -> list[Points]:
    """‖θ − θ_o‖₂ over each stage of a run, where it is known: at its start, just before and just after each merge, and
    at its end. Empty for a stage whose merges were not recorded."""
    stages, start = [], 0
    for stage in read_scored(run)["stages"]:
        merges = read_manifest_of(run, stage["fingerprint"]).get("merges", [])
        points: Points = [(start, 0.0)]
        for merge in merges:
            points += [(start + merge["step"], merge["l2_before"]), (start + merge["step"], merge["l2_after"])]
        if points[-1][0] < start + stage["steps"]:
            points.append((start + stage["steps"], stage["l2_from_anchor"]))
        stages.append(points if len(merges) == len(stage["merge_steps"]) else [])
        start += stage["steps"]
    return stages


def kind_of_scores(results: Results) -> str:
    """What a run's scores are, for an axis: which way is better."""
    losses = [bool(row.get("lower_is_better")) for row in results["evaluations"]]
    return "loss, lower is better" if all(losses) else "score, or loss" if any(losses) else "score, higher is better"


def _scores(run: Path, stage: StageRecord, results: Results, during_training: bool) -> list[tuple[int, str, float]]:
    """Steps, evaluations and values of a stage's scores during training, ending with those of the run's results."""
    final = [r for r in results["evaluations"] if r["after"] == stage["task"]]
    names = {row["evaluation"] for row in final}
    rows = read_scores_of(run, stage["fingerprint"]) if during_training else []
    during = [row for row in rows if not row["final"] and row["evaluation"] in names]
    return [
        *((row["step"], row["evaluation"], row["value"]) for row in during),
        *((stage["steps"], row["evaluation"], row["value"]) for row in final),
    ]


def _panel(ax: Axes, run: Path) -> None:
    results = read_scored(run)
    points, merges, starts = curves(run)
    for merge in merges:
        ax.axvline(merge, **MERGE)
    many = len(points) > len(COLOURS)
    for i, (name, all_points) in enumerate(points.items()):
        line, label = all_points, name.replace("_", " ")
        if many:  # one colour per task, from its own stage on
            first_step = next((start for start, task in starts if name.startswith(f"{task}_")), 0)
            line = [(step, value) for step, value in all_points if step >= first_step]
            _plot(ax, line, merges, color=plt.get_cmap("viridis")(0.92 * i / (len(points) - 1)), linewidth=1.2)
        else:
            _plot(ax, line, merges, color=COLOURS[i], marker=MARKERS[i], markersize=4, label=label)
    for (start, task), (end, _) in itertools.pairwise(starts):
        ax.axvline(end, color="0.3", linewidth=0.8, clip_on=False)
        place: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": "0.3"}
        text = task.rpartition("_")[2] if many else f"training on {task}"
        ax.text((start + end) / 2, 1.01, text, transform=ax.get_xaxis_transform(), **place)
    ax.set_title(_title(results), loc="left", color=_look(results["config"]["method"]).colour, weight="bold", pad=17)
    losses = [bool(row.get("lower_is_better")) for row in results["evaluations"]]
    ax.set_ylabel(
        "score, or loss" if len(set(losses)) > 1 else f"{'loss' if losses[0] else 'score'}\n{better(losses[0])}"
    )
    if all(0 <= value <= 1 for line in points.values() for _, value in line):
        ax.set_ylim(-0.03, 1.03)
    ax.set_xlim(0, starts[-1][0])
    if merges:
        ax.plot([], [], label="merge", **MERGE)
        if any(_across(line, merges) for line in points.values()):
            ax.plot([], [], color="0.3", label="not scored just before the merge", **ACROSS)


def _plot(ax: Axes, points: Points, merges: Sequence[int], **properties: Any) -> None:
    """A line through the points. Where a merge lies between two of them, how much the score moved before it and how
    much by it is unknown: there the line is thin and dotted."""
    solid, across = [points[0]], []
    unknown = _across(points, merges)
    for a, b in itertools.pairwise(points):
        if (a, b) in unknown:
            solid.append((b[0], math.nan))
            across += [a, b, (b[0], math.nan)]
        solid.append(b)
    ax.plot(*zip(*solid, strict=True), clip_on=False, **properties)
    if across:
        ax.plot(*zip(*across, strict=True), color=properties["color"], clip_on=False, **ACROSS)


def _across(points: Points, merges: Sequence[int]) -> list[tuple[tuple[int, float], tuple[int, float]]]:
    """The pairs of points with a merge between them. Of two points at the step of a merge, the first is before it."""
    pairs = []
    for (a, b), after in itertools.zip_longest(itertools.pairwise(points), points[2:]):
        is_before = after is not None and after[0] == b[0]
        if any(a[0] < merge < b[0] or (a[0] < merge == b[0] and not is_before) for merge in merges):
            pairs.append((a, b))
    return pairs


def _distance_panel(ax: Axes, run: Path, stages: Sequence[Points], top: float) -> None:
    """The distance from θ_o, with every merge as a jump; ``top`` is the largest distance of all panels."""
    results = read_scored(run)
    colour = _look(results["config"]["method"]).colour
    end = 0
    for stage, points in zip(results["stages"], stages, strict=True):
        end += stage["steps"]
        ax.axvline(end, color="0.3", linewidth=0.8, clip_on=False)
        if points:
            steps, values = zip(*points, strict=True)
            ax.plot(steps, values, color=colour, linewidth=1.4, marker="o", markersize=3, clip_on=False)
            ax.fill_between(steps, values, color=colour, alpha=0.12, linewidth=0)
    ax.set_ylim(0, 1.1 * top)
    ax.set_ylabel("L2 from\n$\\theta_o$")


def _title(results: Results) -> str:
    """The method, its setting, and the average that it reached."""
    method = str(results["config"]["method"])
    key = METHODS[method].headline if method in METHODS else ""
    value = flat(results["config"]).get(f"{method}.{key}")
    setting = f" {key}={value}" if value else ""
    average = f", average {results['metrics']['average']:.2f}" if results["metrics"] else ""
    return f"{method}{setting}{average}"
