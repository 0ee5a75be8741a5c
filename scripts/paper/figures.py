"""Draws the paper's figures from a sweep's runs."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from scripts.paper import bars, distance, methods, tradeoff
from scripts.paper.sweeps import Figure, read, read_file
from scripts.series import Swept, names, points_of, trains_on_part
from sfa import curves
from sfa.config import ConfigError
from sfa.config.messages import unknown
from sfa.methods import METHODS
from sfa.runs import has_results, read_scored
from sfa.sweeps import SweepRun
from sfa.values import Overrides


def draw(figures: Sequence[Figure], runs: Sequence[SweepRun], out: Path) -> Path | None:
    """Writes a figure of finished runs to ``out``; several of kind ``tradeoff`` are its panels. ``None`` if none of
    these runs is in it."""
    figure = figures[0]
    if figure.kind in ("stream", "together"):
        folder_of: dict[str, Path] = {}
        for run in runs:
            folder_of.setdefault(run.label, run.folder)
        folders = [folder_of[label] for label in figure.runs if label in folder_of]
        if not folders:
            return None
        if figure.kind == "together":
            return curves.draw_together(folders, figure.evaluation or "", out)
        return curves.draw(folders, out)
    points = points_of(runs)
    if figure.kind == "tradeoff":
        selected = [(part, select(points, part)) for part in figures]
        panels = [_panel(results, part, len(figures) > 1) for part, results in selected if results]
        return tradeoff.draw(panels, out) if panels else None
    results = select(points, figure)
    if not results or (figure.kind == "distance" and not distance.distances_and_scores(results, figure.y)):
        return None
    if figure.kind == "bars":
        return bars.draw(results, out)
    if figure.kind == "methods":
        return methods.draw(results, figure.x, figure.y, out, figure.by_time)
    if figure.kind == "each":
        return methods.draw_each(results, figure.x, figure.y, out.with_suffix(""))
    return distance.draw(results, figure.y, out)


def _panel(results: Swept, figure: Figure, has_title: bool) -> tradeoff.Panel:
    title = tradeoff.stream_title(results, figure.x, figure.y) if has_title else ""
    return tradeoff.Panel(results, figure.x, figure.y, title)


def draw_all(file: Path, overrides: Sequence[str], out: Path) -> list[Path]:
    """Draws the figures that a sweep's file declares, of those of its runs that have results, and prints their paths.

    Raises:
        ConfigError: the file is invalid, or a figure names what is in none of its runs.
    """
    figures = read_file(file, overrides)[0].figures
    if not figures:
        return []
    runs = read(file, overrides)
    finished = [run for run in runs if has_results(run.folder)]
    if not finished:
        return []
    if len(finished) < len(runs):
        print(f"{file}: {len(runs) - len(finished)} of {len(runs)} runs have no results", file=sys.stderr)
    scored = [(run, {row["evaluation"] for row in read_scored(run.folder)["evaluations"]}) for run in finished]
    if wrong := [line for i, figure in enumerate(figures) for line in errors_of(figure, f"figures.{i}", runs, scored)]:
        raise ConfigError(str(file), wrong)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name in dict.fromkeys(figure.name for figure in figures):
        parts = [figure for figure in figures if figure.name == name]
        number = f"figure{name}" if name[0].isdigit() else name
        picture = draw(parts, finished, out / f"{number}_{file.stem}.png")
        if picture is not None:
            print(picture)
            pictures.append(picture)
    return pictures


def errors_of(
    figure: Figure, key: str, runs: Sequence[SweepRun], scored: Sequence[tuple[SweepRun, Collection[str]]]
) -> list[str]:
    """What a figure names that is in none of the sweep's ``runs``, or not in the scores of one that it shows, a line
    each; ``scored``: runs with the names of their scores."""
    labels, points = {run.label for run in runs}, [run.point for run in runs]
    errors = [unknown(f"{key}.runs", label, labels, "a run") for label in figure.runs if label not in labels]
    used = {run.config.method for run in runs}
    errors += [unknown(f"{key}.methods", name, used, "of a run") for name in figure.methods or [] if name not in used]
    tasks = {task.name for run in runs for task in run.config.tasks}
    errors += [unknown(f"{key}.stream", name, tasks, "a task") for name in figure.stream or [] if name not in tasks]
    errors += [
        f"{key}.where.{name}: {value!r} is its value in no run"
        for name, value in figure.where.items()
        if not any(name in point and point[name] == value for point in points)
    ]
    shown = [
        {*names} for run, names in scored if _shows(figure, run.point) and (not figure.runs or run.label in figure.runs)
    ]
    if not shown:
        return errors
    known = set.intersection(*shown)
    axes = {f"{key}.x.{domain}": names for domain, names in figure.x.items()}
    axes |= {f"{key}.y.{domain}": names for domain, names in figure.y.items()}
    axes |= {f"{key}.evaluation": [figure.evaluation]} if figure.evaluation is not None else {}
    return errors + [
        unknown(place, name, known, "a score of every run")
        for place, names in axes.items()
        for name in names
        if name not in known
    ]


def _shows(figure: Figure, point: Overrides) -> bool:
    """Whether a figure shows runs with these overrides."""
    if figure.methods is not None and point.get("method") not in figure.methods:
        return False
    return not any(key in point and point[key] != value for key, value in figure.where.items())


def select(results: Swept, figure: Figure) -> Swept:
    """The results that ``figure`` shows: those of its methods, its settings, and its order of tasks."""
    selected = []
    for point, runs in results:
        if not _shows(figure, point):
            continue
        any_order = figure.stream is None or METHODS[point["method"]].ignores_order or trains_on_part(point)
        matching = [run for run in runs if any_order or names(run) == figure.stream]
        if matching:
            selected.append((point, matching))
    return selected
