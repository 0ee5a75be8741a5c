"""The paper's tables beside ours."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.cells import comma_separated, latex, markdown, plain
from scripts.interval import spread
from scripts.paper.sweeps import read, read_file
from scripts.summary import FORMULAS, figures
from sfa import weights
from sfa.config import ConfigError
from sfa.methods import METHODS
from sfa.records import Results
from sfa.runs import has_results, read_results, stage_folder
from sfa.sweeps import SweepRun

L2 = "L2 from the first task's model"
BESIDE = {"average": 3, "forgetting": 3, "backward transfer": 3, "seconds": 0, "peak MiB": 0, "stored examples": 0}


@dataclass(frozen=True)
class Row:
    """A row of a table: by column the paper's number, and ours over the seeds that are there, with what they cost."""

    name: str
    paper: dict[str, float]
    ours: dict[str, list[float]]
    beside: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[Row]


def load(path: Path, overrides: Sequence[str] = ()) -> Table:
    """The table of a sweep's file, with what its runs came to.

    Raises:
        ConfigError: the file is wrong, or is of no table.
    """
    about = read_file(path, overrides)[0].table
    if about is None:
        raise ConfigError(str(path), ["table: is required here"])
    by_name: dict[str, list[SweepRun]] = {}
    for run in read(path, overrides):
        if "row" in run.row:
            by_name.setdefault(run.row["row"], []).append(run)
    columns = [*about.columns, *([L2] if any("paper_l2" in run[0].row for run in by_name.values()) else [])]
    rows = [Row("original", dict(zip(about.columns, about.original, strict=True)), {})]
    for name, runs in by_name.items():
        paper = dict(zip(about.columns, map(float, runs[0].row["paper"]), strict=True))
        if "paper_l2" in runs[0].row:
            paper[L2] = float(runs[0].row["paper_l2"])
        found = [(run, read_results(run.folder)) for run in runs if has_results(run.folder)]
        ours: dict[str, list[float]] = {}
        for run, results in found:
            for column, value in _final(results, results["stages"][-1]["task"]).items():
                ours.setdefault(column, []).append(value)
            if "paper_l2" in run.row:
                ours.setdefault(L2, []).extend(_distance(run, results, by_name))
            if run.config.method == "sequential" and name == next(iter(by_name)):
                for column, value in _final(results, "base").items():
                    rows[0].ours.setdefault(column, []).append(value)
        beside: dict[str, list[float]] = {}
        for figure in (figures(results) for _, results in found):
            for key in BESIDE:
                beside.setdefault(key, []).extend([figure[key]] if key in figure else [])
        rows.append(Row(name, paper, {column: ours[column] for column in columns if column in ours}, beside))
    return Table(about.title, columns, rows)


def _final(results: Results, after: str) -> dict[str, float]:
    return {row["evaluation"]: row["value"] for row in results["evaluations"] if row["after"] == after}


def _distance(run: SweepRun, results: Results, by_name: dict[str, list[SweepRun]]) -> list[float]:
    """‖θ − θ_first‖₂, where θ_first is the model after the stream's first task, as sequential training made it."""
    if len(results["stages"]) == 2 and not METHODS[results["stages"][1]["method"]].ignores_order:
        return [float(results["stages"][1]["l2_from_anchor"])]
    plain = (other for runs in by_name.values() for other in runs if other.point == {"method": "sequential"})
    same = next((other for other in plain if other.config.seed == run.config.seed), None)
    if same is None or not has_results(same.folder):
        return []
    first = read_results(same.folder)["stages"][0]["fingerprint"]
    last = results["stages"][-1]["fingerprint"]
    model, start = (stage_folder(run.config.save_folder, name) / "model" for name in (last, first))
    return [weights.distance(model, start)]


def orders(table: Table) -> dict[str, tuple[int, int]]:
    """By column, how many pairs of rows that the paper tells apart are in the same order in ours, and how many there
    are of which we have both."""
    counts = {}
    for column in table.columns:
        both = [row for row in table.rows if row.ours.get(column) and column in row.paper]
        there = [(row.paper[column], statistics.fmean(row.ours[column])) for row in both]
        pairs = [(a, b) for a, b in itertools.combinations(there, 2) if a[0] != b[0]]
        counts[column] = (sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs))
    return counts


def cells(table: Table) -> list[list[str]]:
    """Lines of cells, the first the head: of each column the paper's number, ours, and the difference."""
    head = ["", *(f"{column}{part}" for column in table.columns for part in (", paper", ", ours", ", difference"))]
    beside = [key for key in BESIDE if any(row.beside.get(key) for row in table.rows)]
    lines = [[*head, *beside]]
    for row in table.rows:
        line = [row.name]
        for column in table.columns:
            paper, ours = row.paper.get(column), row.ours.get(column)
            mean = statistics.fmean(ours) if ours else None
            line += ["" if paper is None else f"{paper:g}", spread(ours, 3) if ours else ""]
            line.append("" if mean is None or paper is None else f"{mean - paper:+.3f}")
        line += [spread(row.beside[key], BESIDE[key]) if row.beside.get(key) else "" for key in beside]
        lines.append(line)
    kept = [part for k, n in orders(table).values() for part in ("", f"{k} of {n}" if n else "", "")]
    return [*lines, ["pairs in the paper's order", *kept, *("" for _ in beside)]]


def render(table: Table, form: str) -> str:
    """The table as ``text``, ``csv``, ``latex`` or ``markdown``."""
    lines = cells(table)
    if form == "csv":
        return comma_separated(lines)
    if form == "latex":
        return f"% {' '.join(table.title.split())}\n{latex(lines)}"
    notes = FORMULAS if any(row.beside for row in table.rows) else []
    if form == "markdown":
        return "\n".join([f"**{table.title}**", "", markdown(lines), "", *(f"- {note}" for note in notes)])
    return "\n".join([table.title, plain(lines), *notes]) + "\n"
