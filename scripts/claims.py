"""Replays what the paper claims, at a size for 2 cores, and says of each claim whether it holds here.

python -m scripts.claims --jobs 2 --out runs/claims.md
python -m scripts.claims --seeds 17 18 19 20 21 --jobs 2
python -m scripts.claims --only 10

Runs the sweeps that the claims need, or what is missing of them. A claim is one or more quantities, each of which must
be above 0: it holds if the 95 % interval of every one is above 0, does not hold if that of one is below 0, and is
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
    """Exit code: 0 all claims were decided or are undecided, 1 a run failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of all runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--jobs", type=int, default=1, help="stages at once")
    parser.add_argument("--only", nargs="+", type=int, choices=CLAIMS, default=list(CLAIMS), help="these claims")
    parser.add_argument("--out", type=files.path, help="also write the table to this Markdown file")
    given = parser.parse_intermixed_args(arguments)
    if len(given.seeds) < 2:
        parser.error("an interval needs two seeds or more")
    console, start = Console(highlight=False, markup=False, soft_wrap=True), time.time()
    found: dict[str | None, Any] = {None: given.seeds}
    decided = {}
    for number in given.only:
        name = CLAIMS[number].sweep
        if name not in found:
            assert name is not None, "claims without a sweep were answered above"
            seeds = f"seeds=[{','.join(map(str, given.seeds))}]"
            runs = read(SWEEPS / f"{name}.yaml", [*given.overrides, seeds], available)
            failed = sweep(name, runs, console, given.jobs)
            if failed:
                print("\n".join(failed), file=sys.stderr)
                return 1
            found[name] = Runs(runs[0].config.save_folder, name)
        decided[number] = CLAIMS[number].quantities(found[name])
    lines = table(decided)
    counts = [decide(quantities) for quantities in decided.values()]
    summary = ", ".join(f"{counts.count(v)} {v}" for v in ("holds", "does not hold", "undecided"))
    about = f"Seeds {given.seeds}, {hardware()}, {time.strftime('%Y-%m-%d')}; {(time.time() - start) / 60:.0f} minutes."
    console.print(tabulate(lines, tablefmt="plain", disable_numparse=True))
    console.print(f"\n{summary}. {about}")
    if given.out:
        command = f"`python -m scripts.claims {shlex.join(arguments)}`"
        explained = (__doc__ or "").strip().rpartition("\n\n")[2].replace("\n", " ")
        files.write(given.out, f"{command}\n\n{about} {summary}.\n\n{explained}\n\n{cells.markdown(lines)}\n")
    return 0


if __name__ == "__main__":
    start(main)
