"""What happened to each task over a stream: its score after every stage, and what was lost since it was learned."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from scripts.interval import mean_interval
from scripts.page.gather import Group, tasks
from sfa.data import Task
from sfa.outcomes import Flips
from sfa.records import Results
from sfa.stages.changes import changes
from sfa.stages.results import general_scores, task_score

BASE = "base"
MOST_SEEDS = 3  # whose p of McNemar's test are listed, not only their range


class Matrix(TypedDict):
    """A setting's mean scores ``[task][stage]``, the base first, over runs in the same order; ``None`` if a task was
    not scored. ``own`` are the tasks that have a stage of their own."""

    label: str
    stages: list[str]
    values: list[list[float | None]]
    own: list[bool]
    runs: int


class TaskTable(TypedDict):
    """One task's rows of cells, one row per setting."""

    task: str
    is_loss: bool
    head: list[str]
    rows: list[list[str]]


class _Figures(NamedTuple):
    """A run's figures on one task; ``None`` where they are not defined."""

    base: float | None
    learned: float | None
    final: float | None
    forgetting: float | None
    gain_kept: float | None
    flips: dict[str, Flips]


def scores(run: Results) -> dict[str, dict[str, float]]:
    """Each task's score, by what it was scored after, the base first: the mean over its evaluations, or over its losses
    if it has no others."""
    lower = {row["evaluation"] for row in run["evaluations"] if row.get("lower_is_better")}
    found: dict[str, dict[str, float]] = {}
    for after in dict.fromkeys(row["after"] for row in run["evaluations"]):
        rows = [row for row in run["evaluations"] if row["after"] == after]
        names = {row["evaluation"] for row in rows}
        by_task = {task: task_score(rows, [*(evaluations & names)], lower.__contains__)
                   for task, evaluations in _evaluations(run).items()}  # fmt: skip
        found[after] = {task: score[1] for task, score in by_task.items() if score is not None}
    return found


def losses(run: Results) -> set[str]:
    """The tasks whose score is a loss, so that lower is better."""
    kinds: dict[str, set[bool]] = {}
    for row in run["evaluations"]:
        for task, evaluations in _evaluations(run).items():
            if row["evaluation"] in evaluations:
                kinds.setdefault(task, set()).add(bool(row.get("lower_is_better")))
    return {task for task, of_task in kinds.items() if of_task == {True}}


def matrices(group: Group) -> list[Matrix]:
    """One for each setting and order of tasks."""
    repeats: dict[tuple[str, tuple[str, ...]], list[Results]] = {}
    for entry in group.entries:
        stages = tuple(scores(entry.results))
        repeats.setdefault((entry.swept["label"], stages), []).append(entry.results)
    ordered = {label for label, _ in repeats if sum(other == label for other, _ in repeats) > 1}
    found: list[Matrix] = []
    names = tasks(group.entries[0].results)
    for (label, stages), runs in repeats.items():
        measured = [scores(run) for run in runs]
        values = [[_mean([m[stage].get(task) for m in measured]) for stage in stages] for task in names]
        trained = [stage for stage in stages if stage != BASE]
        title = f"{label}: {' → '.join(trained)}" if label in ordered else label
        own = [task in trained for task in names]
        found.append({"label": title, "stages": list(stages), "values": values, "own": own, "runs": len(runs)})
    return found


def tables(group: Group) -> list[TaskTable]:
    """What each task lost under every setting, and, for a run with a prior suite, what each of its tasks lost since the
    base."""
    settings: dict[str, list[dict[str, _Figures]]] = {}
    for entry in group.entries:
        settings.setdefault(entry.swept["label"], []).append({**_of_tasks(entry.results), **_of_suite(entry.results)})
    lower = set().union(*(losses(entry.results) | _suite_losses(entry.results) for entry in group.entries))
    names = dict.fromkeys(task for runs in settings.values() for run in runs for task in run)
    return [_table(name, name in lower, {label: [run[name] for run in runs if name in run]
                                         for label, runs in settings.items()}) for name in names]  # fmt: skip


def _evaluations(run: Results) -> dict[str, set[str]]:
    """The evaluations that score each task."""
    return {str(task["name"]): {*task["evals"], *Task.declares(task["name"])} for task in run["config"]["tasks"]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _of_tasks(run: Results) -> dict[str, _Figures]:
    measured = scores(run)
    last, lower, flips = run["stages"][-1]["task"], losses(run), changes(run)
    earlier = [stage for stage in measured if stage != last]
    trained = [task for task in tasks(run) if task in {stage["task"] for stage in run["stages"]}]
    figures = {}
    for task in tasks(run):
        sign = -1.0 if task in lower else 1.0
        base, final = (measured.get(stage, {}).get(task) for stage in (BASE, last))
        learned = measured[task].get(task) if task in trained and task in measured else None
        forgetting = gain_kept = None
        if learned is not None and final is not None and task != last:
            forgetting = (
                max(sign * measured[stage][task] for stage in earlier if task in measured[stage]) - sign * final
            )
            if base is not None and sign * learned > sign * base:
                gain_kept = (final - base) / (learned - base)
        own = {name: change for name, change in flips.items() if name in _evaluations(run)[task]}
        figures[task] = _Figures(base, learned, final, forgetting, gain_kept, own)
    return figures


def _of_suite(run: Results) -> dict[str, _Figures]:
    lower, flips = _suite_losses(run), changes(run)
    return {
        f"{name} (prior suite)": _Figures(
            final - change,
            None,
            final,
            change if f"{name} (prior suite)" in lower else -change,
            None,
            {name: flips[name]} if name in flips else {},
        )
        for name, (final, change) in general_scores(run).items()
    }


def _suite_losses(run: Results) -> set[str]:
    return {f"{row['evaluation']} (prior suite)" for row in run.get("general", []) if row.get("lower_is_better")}


def _table(task: str, is_loss: bool, settings: dict[str, list[_Figures]]) -> TaskTable:
    """The best score first. Columns that no setting has are left out."""
    better, score = ("↓", "loss") if is_loss else ("↑", "score")
    columns = {
        "base": lambda f: f.base,
        f"new task {score}\N{NO-BREAK SPACE}{better}": lambda f: f.learned,
        f"at the end\N{NO-BREAK SPACE}{better}": lambda f: f.final,
        "forgetting\N{NO-BREAK SPACE}↓": lambda f: f.forgetting,
        "gain kept\N{NO-BREAK SPACE}↑": lambda f: f.gain_kept,
    }
    sign = 1 if is_loss else -1
    ranked = sorted(settings.items(), key=lambda item: sign * (_mean([f.final for f in item[1]]) or 0.0))
    rows = [
        [label, *(_interval([get(f) for f in figures]) for get in columns.values()), *_flips(figures)]
        for label, figures in ranked
    ]
    head = ["setting", *columns, "rows lost", "rows gained", "McNemar’s p"]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] != "–" for row in rows)]
    return {
        "task": task,
        "is_loss": is_loss,
        "head": [head[i] for i in kept],
        "rows": [[row[i] for i in kept] for row in rows],
    }


def _interval(values: Sequence[float | None]) -> str:
    """The mean and half its 95 % interval over the runs in which the figure is defined."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean, half = mean_interval(known)
    return f"{mean:z.3f} ± {half:.3f}" if half else f"{mean:z.3f}"


def _flips(figures: Sequence[_Figures]) -> list[str]:
    """Rows lost, rows gained and McNemar's p; by evaluation, if there are several."""
    names = list(dict.fromkeys(name for f in figures for name in f.flips))
    cells = []
    for name in names:
        of_runs = [f.flips[name] for f in figures if name in f.flips]
        counts = [_count([change.lost for change in of_runs]), _count([change.gained for change in of_runs])]
        ps = sorted(change.p for change in of_runs)
        p = (
            ", ".join(f"{change.p:.2g}" for change in of_runs)
            if len(ps) <= MOST_SEEDS
            else f"{ps[0]:.2g} to {ps[-1]:.2g}"
        )
        cells.append([f"{name} {cell}" if len(names) > 1 else cell for cell in (*counts, p)])
    return ["; ".join(column) for column in zip(*cells, strict=True)] if cells else ["–"] * 3


def _count(rows: Sequence[int]) -> str:
    mean, half = mean_interval(rows)
    return f"{mean:.0f} ± {half:.0f}" if half else f"{mean:.0f}"
