"""Compares finished runs side by side, as a table and as a picture.

python -m scripts.compare runs/quickstart-sequential runs/quickstart-sfa --out curves.png
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.curves import draw


def compare(runs: Sequence[dict[str, Any]]) -> Table:
    """One column a run: the final score on every evaluation, how much of the first task was kept, and the metrics. Runs
    that differ only in their seed share a column: mean ± standard deviation over the seeds."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        columns.setdefault(_but_the_seed(run["config"]), []).append(run)
    table = Table(title="after the whole stream", title_justify="left", header_style="bold")
    table.add_column("")
    for group in columns.values():
        table.add_column(_title([run["name"] for run in group]), justify="right")
    figures = [[_figures(run) for run in group] for group in columns.values()]
    for key in dict.fromkeys(key for group in figures for figure in group for key in figure):
        table.add_row(key, *(_cell([figure.get(key, []) for figure in group]) for group in figures))
    return table


def _figures(run: dict[str, Any]) -> dict[str, list[float]]:
    """What a run came to, each a list of one number, or of one for every stage."""
    stages = run["stages"]
    first, last = stages[0]["task"], stages[-1]["task"]
    values = {(row["after"], row["task"]): row["value"] for row in run["evaluations"]}
    figures = {name: [value] for (after, name), value in values.items() if after == last}
    if (first, first) in values and values[first, first] > values["base", first]:
        gain = values[first, first] - values["base", first]
        figures[f"{first} kept"] = [(values[last, first] - values["base", first]) / gain]
    figures |= {key.replace("_", " "): [value] for key, value in (run["metrics"] or {}).items()}
    figures["L2 from anchor"] = [stage["l2_from_anchor"] for stage in stages]
    figures["seconds of training"] = [sum(stage["seconds"] for stage in stages)]
    return figures


def _cell(seeds: list[list[float]]) -> str:
    """Mean, and standard deviation if there are several seeds, of each number."""
    cells = []
    for numbers in zip(*seeds, strict=True):
        digits = 3 if max(map(abs, numbers)) < 5 else 1
        spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
        cells.append(f"{statistics.fmean(numbers):.{digits}f}{spread}")
    return ", ".join(cells)


def _but_the_seed(config: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in config.items() if key not in ("seed", "name")}, sort_keys=True)


def _title(names: list[str]) -> str:
    common = "".join(a[0] for a in itertools.takewhile(lambda a: len(set(a)) == 1, zip(*names, strict=False)))
    return names[0] if len(names) == 1 else f"{common.rstrip('-_0123456789')}, {len(names)} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, with their results.json")
    parser.add_argument("--out", type=Path, help="also draw the curves of the first seed's runs to this file")
    arguments = parser.parse_args()
    found = [json.loads((run / "results.json").read_text()) for run in arguments.runs]
    Console().print(compare(found))
    if arguments.out:
        alone = [run for run, content in zip(arguments.runs, found, strict=True) if content["seed"] == found[0]["seed"]]
        print(draw(alone, arguments.out))


if __name__ == "__main__":
    main()
