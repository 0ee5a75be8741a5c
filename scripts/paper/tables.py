"""The paper's tables next to our results."""

import itertools
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.cells import comma_separated, latex, markdown, paragraphs, plain
from scripts.interval import format_mean_interval
from scripts.paper.sweeps import read, read_file
from scripts.summary import FORMULAS, figures
from sfa import weights
from sfa.config import ConfigError
from sfa.methods import METHODS, plain_method
from sfa.records import Results
from sfa.runs import has_results, read_scored, stage_folder
from sfa.sweeps import SweepRun

L2 = "L2 from the first task's model"
DIGITS = {"average": 3, "forgetting": 3, "backward transfer": 3, "seconds": 0, "peak MiB": 0, "stored examples": 0}


@dataclass(frozen=True)
class Row:
    """A table row: by column the paper's number and ours over the finished seeds, with ``extra`` metrics and costs."""

    name: str
    paper: dict[str, float]
    ours: dict[str, list[float]]
    extra: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[Row]


def load(path: Path, overrides: Sequence[str] = ()) -> Table:
    """The table of a sweep's file, with the results of its runs.

    Raises:
        ConfigError: the file is invalid or has no table.
    """
    spec = read_file(path, overrides)[0].table
    if spec is None:
        raise ConfigError(str(path), ["table: is required here"])
    by_name: dict[str, list[SweepRun]] = {}
    for run in read(path, overrides):
        if "row" in run.row:
            by_name.setdefault(run.row["row"], []).append(run)
    columns = [*spec.columns, *([L2] if any("paper_l2" in run[0].row for run in by_name.values()) else [])]
    rows = [Row("original", dict(zip(spec.columns, spec.original, strict=True)), {})]
    for name, runs in by_name.items():
        paper = dict(zip(spec.columns, map(float, runs[0].row["paper"]), strict=True))
        if "paper_l2" in runs[0].row:
            paper[L2] = float(runs[0].row["paper_l2"])
        finished = [(run, read_scored(run.folder)) for run in runs if has_results(run.folder)]
        ours: dict[str, list[float]] = {}
        for run, results in finished:
            for column, value in _final(results, results["stages"][-1]["task"]).items():
                ours.setdefault(column, []).append(value)
            if "paper_l2" in run.row:
                ours.setdefault(L2, []).extend(_distance_from_first(run, results, by_name))
            if run.config.method == plain_method().name and name == next(iter(by_name)):
                for column, value in _final(results, "base").items():
                    rows[0].ours.setdefault(column, []).append(value)
        extra: dict[str, list[float]] = {}
        for figure in (figures(results) for _, results in finished):
            for key in DIGITS:
                extra.setdefault(key, []).extend([figure[key]] if key in figure else [])
        rows.append(Row(name, paper, {column: ours[column] for column in columns if column in ours}, extra))
    return Table(spec.title, columns, rows)


def _final(results: Results, after: str) -> dict[str, float]:
    return {row["evaluation"]: row["value"] for row in results["evaluations"] if row["after"] == after}


def _distance_from_first(run: SweepRun, results: Results, by_name: dict[str, list[SweepRun]]) -> list[float]:
    """‖θ − θ_first‖₂, where θ_first is the model after the first task of sequential training."""
    if len(results["stages"]) == 2 and not METHODS[results["stages"][1]["method"]].ignores_order:
        return [float(results["stages"][1]["l2_from_anchor"])]
    plain_runs = (r for runs in by_name.values() for r in runs if r.point == {"method": plain_method().name})
    same_seed = next((r for r in plain_runs if r.config.seed == run.config.seed), None)
    if same_seed is None or not has_results(same_seed.folder):
        return []
    first = read_scored(same_seed.folder)["stages"][0]["fingerprint"]
    last = results["stages"][-1]["fingerprint"]
    model, start = (stage_folder(run.config.save_folder, name) / "model" for name in (last, first))
    return [weights.distance(model, start)]


def orders(table: Table) -> dict[str, tuple[int, int]]:
    """By column, the number of pairs of rows in the same order as the paper's, and the number of comparable pairs:
    those that differ in the paper and for which we have results."""
    counts = {}
    for column in table.columns:
        complete = [row for row in table.rows if row.ours.get(column) and column in row.paper]
        means = [(row.paper[column], statistics.fmean(row.ours[column])) for row in complete]
        pairs = [(a, b) for a, b in itertools.combinations(means, 2) if a[0] != b[0]]
        counts[column] = (sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs))
    return counts


def cells(table: Table) -> list[list[str]]:
    """Rows of cells, header first: for each column the paper's number, ours, and the difference."""
    head = ["", *(f"{column}{suffix}" for column in table.columns for suffix in (", paper", ", ours", ", difference"))]
    extra = [key for key in DIGITS if any(row.extra.get(key) for row in table.rows)]
    lines = [[*head, *extra]]
    for row in table.rows:
        line = [row.name]
        for column in table.columns:
            paper, ours = row.paper.get(column), row.ours.get(column)
            mean = statistics.fmean(ours) if ours else None
            line += ["" if paper is None else f"{paper:g}", format_mean_interval(ours, 3) if ours else ""]
            line.append("" if mean is None or paper is None else f"{mean - paper:+.3f}")
        line += [format_mean_interval(row.extra[key], DIGITS[key]) if row.extra.get(key) else "" for key in extra]
        lines.append(line)
    agreement = [suffix for k, n in orders(table).values() for suffix in ("", f"{k} of {n}" if n else "", "")]
    return [*lines, ["pairs in the paper's order", *agreement, *("" for _ in extra)]]


def render(table: Table, form: str, width: int) -> str:
    """The table as ``text`` of at most ``width`` characters a line, ``csv``, ``latex`` or ``markdown``."""
    lines = cells(table)
    if form == "csv":
        return comma_separated(lines)
    if form == "latex":
        return f"% {' '.join(table.title.split())}\n{latex(lines)}"
    notes = FORMULAS if any(row.extra for row in table.rows) else []
    if form == "markdown":
        return "\n".join([f"**{table.title}**", "", markdown(lines), "", *(f"- {note}" for note in notes)])
    parts = [textwrap.fill(table.title, width), plain(lines, width, together=3), paragraphs(notes, width)]
    return "\n\n".join(filter(None, parts)) + "\n"
