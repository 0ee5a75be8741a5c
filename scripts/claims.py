"""Replays the paper's claims on small streams, their beds, and reports which of them hold.

sfa claims --beds words digits --jobs 2 --out runs/claims.md
sfa claims --beds benchmark data_folder=DIR
sfa claims --only 10 --seeds 17 18 19 20 21

Trains the runs that the claims need, reusing finished stages. A claim is one or more quantities, each of which must
be above 0: it holds if the 95 % intervals of all of them are above 0, and does not hold if any interval is below 0.
Otherwise it is undecided, or there is no difference: the interval of a difference of scores lies within ± 0.02.
Intervals are over seeds.
"""

import argparse
import shlex
import sys
import time

from rich.console import Console
from tabulate import tabulate

from eval import available
from scripts import cells, files
from scripts.paper.claims import BEDS, CLAIMS, SWEEPS, Decided, matrix, table
from scripts.paper.measured import Runs
from scripts.paper.sweeps import read
from scripts.paper.verdicts import EQUAL, decide
from scripts.sweep import sweep
from sfa.machine import hardware
from sfa.terminal import command, start


@command("python -m scripts.claims")
def main(arguments: list[str]) -> int:
    """Exit code: 0 every claim has a verdict, 1 a run failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides for all runs")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of each sweep")
    parser.add_argument("--jobs", type=int, default=1, help="stages that train at the same time")
    parser.add_argument(
        "--beds", nargs="+", choices=BEDS, default=["words", "digits"], help="streams to decide them on"
    )
    parser.add_argument("--only", nargs="+", type=int, choices=CLAIMS, default=list(CLAIMS), help="numbers of claims")
    parser.add_argument("--out", type=files.path, help="also write the tables to this Markdown file")
    args = parser.parse_intermixed_args(arguments)
    if args.seeds is not None and len(args.seeds) < 2:
        parser.error("an interval needs at least two seeds")
    console, started = Console(highlight=False, markup=False, soft_wrap=True), time.time()
    runs_of: dict[str, Runs] = {}
    decided: Decided = {}
    for number in args.only:
        claim = CLAIMS[number]
        if claim.runs is None:
            decided[number, "equations"] = claim.quantities(args.seeds or [17, 18, 19, 20, 21])
            continue
        for name in args.beds:
            sweep_name = BEDS[name].sweeps.get(claim.runs)
            if sweep_name is None:
                continue
            if sweep_name not in runs_of:
                seeds = [f"seeds=[{','.join(map(str, args.seeds))}]"] if args.seeds else []
                listed = read(SWEEPS / f"{sweep_name}.yaml", [*args.overrides, *seeds], available)
                wanted = [other for other in map(CLAIMS.get, args.only) if other and other.runs == claim.runs]
                runs = [run for run in listed if any(other.needs(run.label) for other in wanted)]
                failed = sweep(sweep_name, runs, console, args.jobs)
                if failed:
                    print("\n".join(failed), file=sys.stderr)
                    return 1
                runs_of[sweep_name] = Runs(runs[0].config.save_folder, sweep_name, BEDS[name].first, BEDS[name].second)
            decided[number, name] = claim.quantities(runs_of[sweep_name])
    if not decided:
        parser.error("none of these beds is for one of these claims")
    verdicts, quantities = matrix(decided), table(decided)
    counts = [decide(values) for values in decided.values()]
    summary = ", ".join(f"{counts.count(v)} {v}" for v in ("holds", EQUAL, "does not hold", "undecided"))
    seeds_used = f"Seeds {args.seeds}" if args.seeds else "The seeds of each sweep"
    minutes = (time.time() - started) / 60
    about = f"{seeds_used}, {hardware()}, {time.strftime('%Y-%m-%d')}; {minutes:.0f} minutes."
    for rows in (quantities, verdicts):
        console.print(tabulate(rows, tablefmt="plain", disable_numparse=True), end="\n\n")
    console.print(f"{summary}. {about}")
    if args.out:
        command_line = f"`python -m scripts.claims {shlex.join(arguments)}`"
        explanation = (__doc__ or "").strip().rpartition("\n\n")[2].replace("\n", " ")
        parts = [command_line, f"{about} {summary}.", explanation, cells.markdown(verdicts), cells.markdown(quantities)]
        files.write(args.out, "\n\n".join(parts) + "\n")
    return 0


if __name__ == "__main__":
    start(main)
