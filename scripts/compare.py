"""Compares finished runs side by side, as a table and as a picture.

python -m scripts.compare runs/quickstart-sequential runs/quickstart-sfa --out curves.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.curves import draw


def compare(runs: Sequence[dict[str, Any]]) -> Table:
    """One row a run: the final score on every evaluation, how much of the first task was kept, and the metrics."""
    names = list(dict.fromkeys(row["task"] for row in runs[0]["evaluations"]))
    table = Table(title="after the whole stream", title_justify="left", header_style="bold")
    first = runs[0]["stages"][0]["task"]
    for column in ["run", *names, f"{first} kept", "average", "forgetting", "backward transfer", "L2 from anchor"]:
        table.add_column(column, justify="left" if column == "run" else "right")
    for run in runs:
        stages = run["stages"]
        values = {(row["after"], row["task"]): row["value"] for row in run["evaluations"]}
        last = stages[-1]["task"]
        summary = [f"{run['metrics'][key]:.3f}" for key in ("average", "forgetting", "backward_transfer")]
        table.add_row(
            run["name"],
            *(f"{values[last, name]:.3f}" for name in names),
            _kept(values, first, last),
            *summary,
            " ".join(f"{stage['l2_from_anchor']:.1f}" for stage in stages),
        )
    return table


def _kept(values: dict[tuple[str, str], float], task: str, last: str) -> str:
    """The share of what a task gained over the base in its own stage that is left at the end."""
    gain = values[task, task] - values["base", task]
    return f"{(values[last, task] - values['base', task]) / gain:.0%}" if gain > 0 else "nothing gained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, with their results.json")
    parser.add_argument("--out", type=Path, help="also draw their curves to this file")
    arguments = parser.parse_args()
    found = [json.loads((run / "results.json").read_text()) for run in arguments.runs]
    Console().print(compare(found))
    if arguments.out:
        print(draw(arguments.runs, arguments.out))


if __name__ == "__main__":
    main()
