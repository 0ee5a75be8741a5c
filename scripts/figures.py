"""Draws the paper's figures that the given sweep files declare, from the runs that have results.

sfa figures yamls/sweeps/*.yaml --out runs/figures
sfa figures yamls/sweeps/table1.yaml save_folder=/data/runs --out figures

Each is written as PNG and PDF. Give the same overrides as when the sweep was run.
"""

import argparse
import sys
from pathlib import Path

from scripts import files
from scripts.paper.figures import draw_all
from sfa.terminal import command, start


@command("python -m scripts.figures")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 no results to draw, 2 wrong file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="SWEEP.yaml | KEY=VALUE", help="sweeps, and overrides")
    parser.add_argument("--out", type=files.path, default=Path("runs/figures"), help="folder")
    args = parser.parse_args(arguments)
    sweeps = [Path(file) for file in args.files if Path(file).parent.name == "sweeps"]
    overrides = [word for word in args.files if Path(word) not in sweeps]
    if not sweeps:
        parser.error(f"{' '.join(args.files)}: name a sweep's file, like yamls/sweeps/table1.yaml")
    drawn = [picture for file in sweeps for picture in draw_all(file, overrides, args.out)]
    if not drawn:
        print("nothing to draw: none of these sweeps has results", file=sys.stderr)
    return 0 if drawn else 1


if __name__ == "__main__":
    start(main)
