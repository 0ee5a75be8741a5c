"""The paper's figures from what sweeps came to: of each sweep's file those that it names, where there are results.

python -m scripts.figures yamls/sweeps/*.yaml --out runs/figures
python -m scripts.figures yamls/sweeps/table1.yaml save_folder=/data/runs --out figures

Each is written as PNG and PDF. Overrides are those that the sweep was run with.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import bars, curves, distance, files, tradeoff
from scripts.series import chosen, points_of
from sfa.runs import read_sweep, run_folder, sweep_file
from sfa.sweep import Figure, read, read_file
from sfa.terminal import command, start


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


@command("python -m scripts.figures")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 there was nothing to draw, 2 wrong file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="SWEEP.yaml | KEY=VALUE", help="sweeps, and overrides")
    parser.add_argument("--out", type=files.path, default=Path("runs/figures"), help="folder")
    given = parser.parse_args(arguments)
    sweeps = [Path(file) for file in given.files if Path(file).parent.name == "sweeps"]
    overrides = [word for word in given.files if Path(word) not in sweeps]
    if not sweeps:
        parser.error(f"{' '.join(given.files)}: name a sweep's file, like yamls/sweeps/table1.yaml")
    drawn = [picture for file in sweeps for picture in draw_all(file, overrides, given.out)]
    if not drawn:
        print("nothing to draw: none of these sweeps has been run", file=sys.stderr)
    return 0 if drawn else 1


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


if __name__ == "__main__":
    start(main)
