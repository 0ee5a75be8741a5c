"""Replays the paper's claims at a size for 2 cores and reports which of them hold.

python -m scripts.claims --jobs 2 --out runs/claims.md
python -m scripts.claims --seeds 17 18 19 20 21 --jobs 2
python -m scripts.claims --only 10

Trains the sweeps that the claims need, reusing finished stages. A claim is one or more quantities, each of which must
be above 0: it holds if the 95 % intervals of all of them are above 0, does not hold if any interval is below 0, and is
undecided otherwise. Intervals are over seeds.
"""

import argparse
import shlex
import sys
import time
from typing import Any

from rich.console import Console
from tabulate import tabulate

from eval import available
from scripts import cells, files
from scripts.paper.claims import CLAIMS, SWEEPS, Runs, decide, table
from scripts.paper.sweeps import read
from scripts.sweep import sweep
from sfa.machine import hardware
from sfa.terminal import command, start


@command("python -m scripts.claims")
def main(arguments: list[str]) -> int:
    """Exit code: 0 every claim has a verdict, 1 a run failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides for all runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--jobs", type=int, default=1, help="stages that train at the same time")
    parser.add_argument("--only", nargs="+", type=int, choices=CLAIMS, default=list(CLAIMS), help="numbers of claims")
    parser.add_argument("--out", type=files.path, help="also write the table to this Markdown file")
    args = parser.parse_intermixed_args(arguments)
    if len(args.seeds) < 2:
        parser.error("an interval needs at least two seeds")
    console, started = Console(highlight=False, markup=False, soft_wrap=True), time.time()
    runs_of: dict[str | None, Any] = {None: args.seeds}
    quantities_of = {}
    for number in args.only:
        name = CLAIMS[number].sweep
        if name not in runs_of:
            assert name is not None, "claims without a sweep were answered above"
            seeds = f"seeds=[{','.join(map(str, args.seeds))}]"
            runs = read(SWEEPS / f"{name}.yaml", [*args.overrides, seeds], available)
            failed = sweep(name, runs, console, args.jobs)
            if failed:
                print("\n".join(failed), file=sys.stderr)
                return 1
            runs_of[name] = Runs(runs[0].config.save_folder, name)
        quantities_of[number] = CLAIMS[number].quantities(runs_of[name])
    lines = table(quantities_of)
    counts = [decide(quantities) for quantities in quantities_of.values()]
    summary = ", ".join(f"{counts.count(v)} {v}" for v in ("holds", "does not hold", "undecided"))
    about = (
        f"Seeds {args.seeds}, {hardware()}, {time.strftime('%Y-%m-%d')}; {(time.time() - started) / 60:.0f} minutes."
    )
    console.print(tabulate(lines, tablefmt="plain", disable_numparse=True))
    console.print(f"\n{summary}. {about}")
    if args.out:
        command_line = f"`python -m scripts.claims {shlex.join(arguments)}`"
        explanation = (__doc__ or "").strip().rpartition("\n\n")[2].replace("\n", " ")
        files.write(args.out, f"{command_line}\n\n{about} {summary}.\n\n{explanation}\n\n{cells.markdown(lines)}\n")
    return 0


if __name__ == "__main__":
    start(main)
