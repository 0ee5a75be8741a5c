"""Draws the paper's figures from a sweep's runs."""

from collections.abc import Sequence
from pathlib import Path

from scripts.paper import bars, distance, methods, tradeoff
from scripts.paper.sweeps import Figure, read, read_file
from scripts.series import Swept, names, points_of, trains_on_part
from sfa import curves
from sfa.methods import METHODS
from sfa.runs import read_sweep, run_folder, sweep_file


def draw(figures: Sequence[Figure], index: Path, out: Path) -> Path:
    """Writes a figure of the sweep listed by ``index`` to ``out``; several of kind ``tradeoff`` are its panels."""
    figure = figures[0]
    if figure.kind in ("stream", "together"):
        folder_of: dict[str, Path] = {}
        for run in read_sweep(index)["runs"]:
            folder_of.setdefault(run["label"], run_folder(index.parent, run["name"]))
        folders = [folder_of[label] for label in figure.runs if label in folder_of]
        if figure.kind == "together":
            return curves.draw_together(folders, figure.evaluation or "", out)
        return curves.draw(folders, out)
    points = points_of(index)
    if figure.kind == "tradeoff":
        return tradeoff.draw([_panel(select(points, part), part, len(figures) > 1) for part in figures], out)
    results = select(points, figure)
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
    """Draws the figures that a sweep's file declares, if it has been run, and prints their paths.

    Raises:
        ConfigError: the file is invalid.
    """
    figures = read_file(file, overrides)[0].figures
    if not figures:
        return []
    index = sweep_file(read(file, overrides)[0].config.save_folder, file.stem)
    if not index.is_file():
        return []
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name in dict.fromkeys(figure.name for figure in figures):
        parts = [figure for figure in figures if figure.name == name]
        number = f"figure{name}" if name[0].isdigit() else name
        pictures.append(draw(parts, index, out / f"{number}_{file.stem}.png"))
        print(pictures[-1])
    return pictures


def select(results: Swept, figure: Figure) -> Swept:
    """The results that ``figure`` shows: those of its methods, its settings, and its order of tasks."""
    selected = []
    for point, runs in results:
        if figure.methods is not None and point.get("method") not in figure.methods:
            continue
        if any(key in point and point[key] != value for key, value in figure.where.items()):
            continue
        any_order = figure.stream is None or METHODS[point["method"]].ignores_order or trains_on_part(point)
        matching = [run for run in runs if any_order or names(run) == figure.stream]
        if matching:
            selected.append((point, matching))
    return selected
