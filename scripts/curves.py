"""Draws every task's score over the stream, one panel per run with its merges marked (the paper's Figures 2 and 11), or
one evaluation of several runs in one panel (Figure 12).

sfa curves runs/quickstart-sequential runs/quickstart-sfa --out curves.png
sfa curves runs/t5-instructions runs/t5-instructions-multitask --together simpl_loss --out simpl.png
"""

import argparse
from pathlib import Path

from scripts import files
from sfa.curves import draw, draw_together
from sfa.terminal import command, start


@command("python -m scripts.curves")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=files.path, help="folders of runs, with their results.json")
    parser.add_argument("--out", type=files.picture, default=Path("curves.png"))
    parser.add_argument("--together", metavar="EVALUATION", help="draw this evaluation of all runs in one panel")
    args = parser.parse_args(arguments)
    print(draw_together(args.runs, args.together, args.out) if args.together else draw(args.runs, args.out))
    return 0


if __name__ == "__main__":
    start(main)
