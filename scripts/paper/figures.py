"""Which figures of the paper a sweep's runs make."""

from collections.abc import Sequence
from pathlib import Path

from scripts.paper import bars, distance, tradeoff
from scripts.paper.sweeps import Figure, read, read_file
from scripts.series import Swept, is_alone, names, points_of
from sfa import curves
from sfa.methods import METHODS
from sfa.runs import read_sweep, run_folder, sweep_file


def draw(figure: Figure, index: Path, out: Path) -> Path:
    """Writes a figure of the sweep whose runs ``index`` lists to ``out``."""
    if figure.kind in ("stream", "together"):
        first: dict[str, Path] = {}
        for run in read_sweep(index)["runs"]:
            first.setdefault(run["label"], run_folder(index.parent, run["name"]))
        folders = [first[label] for label in figure.runs if label in first]
        if figure.kind == "together":
            return curves.draw_together(folders, figure.evaluation or "", out)
        return curves.draw(folders, out)
    results = chosen(points_of(index), figure)
    if figure.kind == "bars":
        return bars.draw(results, out)
    if figure.kind == "distance":
        return distance.draw(results, figure.y, out)
    return tradeoff.draw(results, figure.x, figure.y, out)


def draw_all(file: Path, overrides: Sequence[str], out: Path) -> list[Path]:
    """Draws what a sweep's file names, if it was run; says what it drew.

    Raises:
        ConfigError: the file is wrong.
    """
    figures = read_file(file, overrides)[0].figures
    if not figures:
        return []
    index = sweep_file(read(file, overrides)[0].config.save_folder, file.stem)
    if not index.is_file():
        return []
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for figure in figures:
        pictures.append(draw(figure, index, out / f"figure{figure.name}_{file.stem}.png"))
        print(pictures[-1])
    return pictures


def chosen(results: Swept, figure: Figure) -> Swept:
    """Those that belong into ``figure``: of its methods, its settings, and its order of tasks."""
    kept = []
    for point, runs in results:
        if figure.methods is not None and point.get("method") not in figure.methods:
            continue
        if any(key in point and point[key] != value for key, value in figure.where.items()):
            continue
        anyhow = figure.stream is None or METHODS[point["method"]].ignores_order or is_alone(point)
        same = [run for run in runs if anyhow or names(run) == figure.stream]
        if same:
            kept.append((point, same))
    return kept
