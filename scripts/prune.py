"""Deletes stages and checkpoints that no run needs: lists them first, and deletes with --yes.

sfa prune
sfa prune runs --older-than 7 --yes

A stage is needed by the runs with results.json that list it, and by every stage that depends on it. Stages of a run or
sweep that is still going on are needed by no run yet: what was written in the last day is kept, and as long as that is
of no finished run, all finished stages are. So are they while a run's results or a stage's manifest cannot be read.
"""

import argparse
import shutil
from pathlib import Path

from scripts import files
from sfa.inventory import Removal, caution, remove, take, unneeded
from sfa.stages.describe import size_of
from sfa.terminal import command, start


@command("sfa prune")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 no folder of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=files.path, default=Path("runs"), help="default: runs")
    parser.add_argument("--older-than", type=float, default=1.0, metavar="DAYS", help="default: 1")
    parser.add_argument("--data", action="store_true", help="prepared data, too: they are built again when needed")
    parser.add_argument("--yes", action="store_true", help="delete; without it, only list")
    args = parser.parse_args(arguments)
    inventory = take(args.folder)
    removals = unneeded(inventory, args.older_than)
    if args.data and inventory.data_size:
        removals.append(Removal(args.folder / "data", inventory.data_size, "prepared data"))
    width = shutil.get_terminal_size().columns
    for removal in removals:
        print(f"{size_of(removal.size):>10}  {removal.path}  {removal.reason}"[: max(width, 80)])
    if (reason := caution(inventory, args.older_than)) and any(s.manifest and not s.users for s in inventory.stages):
        print(reason)
    total = size_of(sum(removal.size for removal in removals))
    if not removals:
        print("nothing to delete")
    elif args.yes:
        remove(removals)
        print(f"deleted {total}")
    else:
        print(f"{total} in {len(removals)} folders; --yes deletes them")
    return 0


if __name__ == "__main__":
    start(main)
