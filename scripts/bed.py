"""Checks whether a stream of tasks can decide claims: its conditions name no method but sequential, single-task and
multitask training.

python -m scripts.bed yamls/words.yaml --seeds 1 2 3 --jobs 2 --out results/beds/words.md
python -m scripts.bed yamls/words.yaml --best returns=0.85 train.lr=5e-4

Trains what the conditions need, with the config's steps and with twice as many, reusing finished stages.
"""

import argparse
import shlex
import sys
import time
from itertools import chain

from rich.console import Console
from tabulate import tabulate

from eval import available
from scripts import cells, files
from scripts.paper.beds import bed_runs, read_outcome, score_table, table, validate
from scripts.sweep import sweep
from sfa.machine import hardware
from sfa.terminal import command, start


@command("python -m scripts.bed")
def main(arguments: list[str]) -> int:
    """Exit code: 0 valid, 1 not valid or a run failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=files.path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides for all runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--best", nargs="+", default=[], metavar="TASK=SCORE", help="of the largest model in reach")
    parser.add_argument("--jobs", type=int, default=1, help="stages that train at the same time")
    parser.add_argument("--out", type=files.path, help="also write the conditions to this Markdown file")
    args = parser.parse_intermixed_args(arguments)
    if len(args.seeds) < 2:
        parser.error("the noise of a score needs at least two seeds")
    best = {}
    for written in args.best:
        name, _, score = written.partition("=")
        try:
            best[name] = float(score)
        except ValueError:
            parser.error(f"--best: {written} is not like returns=0.85")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    runs = bed_runs(args.config, args.seeds, args.overrides, available)
    name = runs[False][0][0].config.name.rpartition("-sequential")[0]
    failed = sweep(f"{name}-bed", [*chain.from_iterable([*runs[False], *runs[True]])], console, args.jobs)
    if failed:
        print("\n".join(failed), file=sys.stderr)
        return 1
    bed, doubled = read_outcome(runs[False]), read_outcome(runs[True])
    conditions = validate(bed, doubled, best)
    valid = all(condition.holds for condition in conditions)
    verdict = f"{args.config}: {'valid' if valid else 'not valid'}"
    tables = [table(conditions), score_table(bed), score_table(doubled)]
    for rows in tables:
        console.print(tabulate(rows, tablefmt="plain", disable_numparse=True), end="\n\n")
    console.print(verdict)
    if args.out:
        command_line = f"`python -m scripts.bed {shlex.join(arguments)}`"
        about = f"Seeds {args.seeds}, {hardware()}, {time.strftime('%Y-%m-%d')}. {verdict}."
        notes = ["", "Mean scores over the seeds:", "With twice the steps:"]
        parts = [f"{note}\n\n{cells.markdown(rows)}".strip() for note, rows in zip(notes, tables, strict=True)]
        files.write(args.out, "\n\n".join([command_line, about, *parts]) + "\n")
    return 0 if valid else 1


if __name__ == "__main__":
    start(main)
