"""Lists runs and stages: what each is, its size, who needs it, and what is half-made.

sfa list
sfa list runs --stages
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from scripts import files
from sfa.inventory import DAY, Inventory, StageEntry, take
from sfa.stages.describe import size_of
from sfa.terminal import command, start


def run_rows(inventory: Inventory) -> list[list[str]]:
    """A row for each run: name, method, tasks, average, and the size of the stages that only it needs."""
    rows = []
    for run in inventory.runs:
        alone = sum(entry.size for entry in inventory.stages if list(entry.users) == [run.name])
        shared = sum(entry.size for entry in inventory.stages if run.name in entry.users) - alone
        average = "" if run.average is None else f"{run.average:.3f}"
        what = [run.method, " → ".join(run.tasks)] if not run.error else ["damaged", ""]
        rows.append([run.name, *what, average, size_of(alone), size_of(shared)])
    return rows


def stage_rows(inventory: Inventory) -> list[list[str]]:
    """A row for each stage: fingerprint, task, method, state, size, age and who needs it."""
    return [
        [
            entry.folder.name,
            entry.manifest["task"] if entry.manifest else "",
            entry.manifest["method"] if entry.manifest else "",
            _state(entry),
            size_of(entry.size),
            _age(entry.age),
            ", ".join(entry.users[:3]) + (f" and {len(entry.users) - 3} more" if len(entry.users) > 3 else ""),
        ]
        for entry in inventory.stages
    ]


def _state(entry: StageEntry) -> str:
    if entry.is_running:
        return "in the making"
    if entry.manifest is None:
        return "damaged" if entry.error else "half-made"
    return "made" if entry.users else "needed by no run"


def _age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{seconds / DAY:.0f} days" if hours >= 48 else f"{hours:.0f} h" if hours >= 1 else f"{seconds / 60:.0f} min"


@command("sfa list")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 no folder of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=files.path, default=Path("runs"), help="default: runs")
    parser.add_argument("--stages", action="store_true", help="list every stage, too")
    args = parser.parse_args(arguments)
    inventory = take(args.folder)
    heads = ["run", "method", "tasks", "average", "stages of its own", "shared"]
    print(tabulate([heads, *run_rows(inventory)], tablefmt="plain", disable_numparse=True))
    if args.stages:
        heads = ["stage", "task", "method", "state", "size", "written", "needed by"]
        print("\n" + tabulate([heads, *stage_rows(inventory)], tablefmt="plain", disable_numparse=True))
    states = [_state(entry) for entry in inventory.stages]
    counts = [
        f"{states.count(state)} {state}" for state in ("half-made", "damaged", "needed by no run") if state in states
    ]
    if inventory.errors:
        print("\n" + "\n".join(inventory.errors))
    total = size_of(sum(entry.size for entry in inventory.stages))
    print(
        f"\n{len(inventory.runs)} runs, {len(states)} stages of {total}"
        + "".join(f", {count}" for count in counts)
        + f"; prepared data of {size_of(inventory.data_size)}"
        + ("; sfa prune deletes what no run needs" if counts else "")
    )
    return 0


if __name__ == "__main__":
    start(main)
