"""Compares finished runs side by side: a table in the terminal, a picture, a Markdown file.

sfa compare runs/quickstart-sequential runs/quickstart-sfa --picture curves.png --markdown table.md
"""

import argparse
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts import cells, files
from scripts.interval import format_mean_interval
from sfa.curves import draw
from sfa.records import ConfigRecord, FinalScore, Results
from sfa.runs import read_manifest_of, read_scored
from sfa.stages.changes import changes
from sfa.stages.results import average_name, general_scores, named_metrics
from sfa.terminal import command, start
from sfa.values import flat

MOST_COLUMNS = 5  # with a column per run
COUNTS, MCNEMAR = ("rows lost", "rows gained"), "McNemar's p"
LOCATION_KEYS = ("name", "save_folder", "data_folder")  # config keys that only say where files are


def compare(runs: Sequence[Results]) -> list[list[str]]:
    """Rows of cells, header first: one column per run with its final scores, the retained share of the first task, the
    metrics, the prior suite, and how many rows were lost and gained after a task was learned, and of the prior suite
    since the base. Runs that differ only in their seed share a column: mean ± half a 95 % interval, but each seed's p
    of McNemar's test."""
    columns: dict[str, list[Results]] = {}
    for run in runs:
        columns.setdefault(_config_without_seed(run["config"]), []).append(run)
    figures = [[_figures(run) for run in group] for group in columns.values()]
    keys = dict.fromkeys(key for group in figures for figure in group for key in figure)
    head = ["", *map(_title, columns.values())]
    return [head, *([key, *(_cell(key, [f.get(key, []) for f in group]) for group in figures)] for key in keys)]


def as_tables(lines: cells.Lines, width: int) -> list[Table]:
    """The rows as a table for a terminal of ``width`` characters: with a row per run, if they are many or their columns
    do not fit; as several tables with a few columns each, if the rows do not fit either."""
    gap = 3  # with a border
    as_rows = cells.turned(lines)
    fits = len(lines[0]) <= MOST_COLUMNS and len(cells.parts(lines, width - 1 - gap, gap)) == 1
    tables = cells.parts(lines if fits else as_rows, width - 1 - gap, gap)
    return [as_table(part, "" if i else "after the whole stream") for i, part in enumerate(tables)]


def as_table(lines: cells.Lines, title: str = "") -> Table:
    """The rows as a table for the terminal."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for i, (name, width) in enumerate(zip(lines[0], cells.column_widths(lines), strict=True)):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold", max_width=max(1, width))
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table


def markdown(folders: Sequence[Path], runs: Sequence[Results], command: str) -> str:
    """The comparison and every run's scores after every stage, with the seeds, hardware, versions and dates."""
    environments = {
        json.dumps(read_manifest_of(folder, stage["fingerprint"])["made"], sort_keys=True): None
        for folder, run in zip(folders, runs, strict=True)
        for stage in run["stages"]
    }
    environment = "; ".join(f"{m['hardware']}, torch {m['torch']}, {m['date']}" for m in map(json.loads, environments))
    compared = compare(runs)
    sections = [
        cells.code(command),
        f"Seeds {sorted({run['seed'] for run in runs})}; {environment}.",
        cells.markdown(cells.turned(compared) if len(compared[0]) > MOST_COLUMNS else compared),
    ]
    for run in runs:
        sections += [f"## {run['name']}", cells.code(" ".join(_overrides(run, runs[0]))), _matrix(run["evaluations"])]
        if general := run.get("general"):
            sections += ["The prior suite:", _matrix(general)]
    return "\n\n".join(sections) + "\n"


def _matrix(rows: Sequence[FinalScore]) -> str:
    """Every score, in Markdown, with a line per stage."""
    names = list(dict.fromkeys(row["evaluation"] for row in rows))
    values = {(row["after"], row["evaluation"]): row for row in rows}
    lines = [["after", *names]]
    for after in dict.fromkeys(row["after"] for row in rows):
        lines.append([after, *(_score(values[after, name]) if (after, name) in values else "–" for name in names)])
    return cells.markdown(lines)


def _overrides(run: Results, first: Results) -> list[str]:
    """The method, the seed, and every other key in which the config differs from the first run's."""
    config, reference = flat(run["config"]), flat(first["config"])
    differs = [key for key, value in config.items() if reference.get(key, value) != value]
    return [f"{key}={config[key]}" for key in dict.fromkeys(["method", "seed", *differs]) if key not in LOCATION_KEYS]


def _score(row: FinalScore) -> str:
    stderr = "" if row["stderr"] is None else f" ± {row['stderr']:.3f}"
    majority = f" (majority {row['majority']:.3f})" if "majority" in row else ""
    return f"{row['value']:.3f}{stderr}{majority}"


def _figures(run: Results) -> dict[str, list[float]]:
    """A run's results by name: lists of one number, or of one number per stage."""
    stages = run["stages"]
    first, last = stages[0]["task"], stages[-1]["task"]
    values = {(row["after"], row["evaluation"]): row["value"] for row in run["evaluations"]}
    figures = {name: [value] for (after, name), value in values.items() if after == last}
    if {(first, first), (last, first)} <= values.keys() and values[first, first] > values["base", first]:
        gain = values[first, first] - values["base", first]
        figures[f"{first} kept"] = [(values[last, first] - values["base", first]) / gain]
    for key, value in named_metrics(run):
        figures[average_name(run) if key == "average" else key.replace("_", " ")] = [value]
    suite = general_scores(run)
    for name, (value, difference) in suite.items():
        figures |= {f"{name} (prior)": [value], f"{name} (prior), change": [difference]}
    for name, change in changes(run).items():
        title = f"{name} (prior)" if name in suite else name
        figures |= {f"{title}, {COUNTS[0]}": [change.lost], f"{title}, {COUNTS[1]}": [change.gained]}
        figures[f"{title}, {MCNEMAR}"] = [change.p]
    figures["L2 from anchor"] = [stage["l2_from_anchor"] for stage in stages]
    figures["seconds of training"] = [sum(stage["seconds"] for stage in stages)]
    return figures


def _cell(key: str, seeds: list[list[float]]) -> str:
    """Each number's mean, with half a 95 % interval if there are several seeds; empty if a seed lacks it."""
    cells = []
    if not all(seeds):
        return ""
    if key.endswith(MCNEMAR):
        return ", ".join(f"{p:.2g}" for (p,) in seeds)
    for numbers in zip(*seeds, strict=True):
        digits = 0 if key.endswith(COUNTS) else 3 if max(map(abs, numbers)) < 20 else 1
        cells.append(format_mean_interval(numbers, digits))
    return ", ".join(cells)


def _config_without_seed(config: ConfigRecord) -> str:
    return json.dumps({k: value for k, value in config.items() if k not in ("seed", *LOCATION_KEYS)}, sort_keys=True)


def _title(runs: Sequence[Results]) -> str:
    """The name of a run, or what the names of runs that differ in their seed have in common."""
    names = [run["name"] for run in runs]
    if len(names) == 1:
        return names[0]
    without_seed = {run["name"].removesuffix(f"-{run['seed']}") for run in runs}
    common = "".join(a[0] for a in itertools.takewhile(lambda a: len(set(a)) == 1, zip(*names, strict=False)))
    return f"{without_seed.pop() if len(without_seed) == 1 else common.rstrip('-_')}, {len(names)} seeds"


@command("python -m scripts.compare")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=files.path, help="folders of runs, with their results.json")
    parser.add_argument("--picture", type=files.picture, help="also draw the curves of the first seed's runs")
    parser.add_argument("--markdown", type=files.path, help="also write all scores to this file")
    args = parser.parse_args(arguments)
    results = [read_scored(run) for run in args.runs]
    console = Console()
    for table in as_tables(compare(results), console.width):
        console.print(table)
    if args.picture:
        first_seed = [
            run for run, content in zip(args.runs, results, strict=True) if content["seed"] == results[0]["seed"]
        ]
        print(draw(first_seed, args.picture))
    if args.markdown:
        command_line = f"python -m scripts.compare {shlex.join(arguments)}"
        print(files.write(args.markdown, markdown(args.runs, results, command_line)))
    return 0


if __name__ == "__main__":
    start(main)
