"""Writes one self-contained HTML page of results: tables, trade-offs, heat maps, curves, configs and commands.

sfa report runs/mine runs/plain --out runs/report.html
sfa report runs/words.json runs/glyphs.json
sfa report elsewhere/results.json

A folder, or its results.json, is that of a finished run; all runs that are named share a section, if they have the same
tasks. Any other file lists the runs of a sweep. What is missing is reported in a line each, and the rest is made.
"""

import argparse
import importlib.metadata
import json
import math
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import jinja2
import yaml
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from scripts import files
from scripts.page.by_task import Matrix, TaskTable, matrices, tables
from scripts.page.gather import Entry, Group, gather, tasks
from scripts.page.plane import Plane, plane
from scripts.summary import FORMULAS, head, rows
from sfa import curves
from sfa.errors import SFAError
from sfa.pictures import COLOURS
from sfa.records import Results
from sfa.runs import read_manifest_of, read_scored
from sfa.stages.results import is_loss
from sfa.terminal import command, start
from sfa.values import flat

PACKAGES = ("mosaicml", "torch", "transformers", "datasets", "lm_eval", "mergekit")
TEMPLATES = Path(__file__).parent / "page"
HIGHER = ("average", "backward transfer", "forward transfer", "new task score", "gain kept")  # is better
SUBSCRIPTS = re.compile("[ᵢⱼₙ₀₁₋]+(?:,[ᵢⱼₙ]+)?")

Value = TypeVar("Value")


class Curves(TypedDict):
    """A run's scores over its steps, by evaluation, with its merges and the starts of its stages, and what the scores
    are; ``losses`` are the evaluations of which lower scores are better."""

    label: str
    kind: str
    losses: list[str]
    lines: dict[str, list[tuple[int, float]]]
    merges: list[int]
    stages: list[tuple[int, str]]


class Run(TypedDict):
    """How a setting is run again: its command, and in what its config differs from that of the others."""

    label: str
    command: str
    config: str


class Section(TypedDict):
    """A section of the page: the runs of a sweep, or those named one by one."""

    name: str
    seeds: list[int]
    streams: list[str]
    head: list[str]
    rows: list[list[str]]
    plane: Plane
    matrices: list[Matrix]
    tables: list[TaskTable]
    curves: list[Curves]
    config: str
    runs: list[Run]
    environments: list[dict[str, str]]


def page(places: Sequence[Path]) -> tuple[str, list[str]]:
    """The report on sweeps and runs, and a line about each thing that is missing.

    Args:
        places: files that list a sweep's runs, folders of runs, and their files of results.

    Raises:
        SFAError: there is nothing to report; the first thing that is missing.
    """
    groups, missing = gather(places)
    sections = [_section(group, missing) for group in groups]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"minus": _minus}
    text = environment.get_template("page.html").render(
        sections=sections,
        missing=missing,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        data=Markup(_json([{key: section[key] for key in ("plane", "matrices", "curves")} for section in sections])),
        colours=Markup(_json(COLOURS)),
        plotly=Markup(get_plotlyjs()),
        formulas=[_subscripts(formula) for formula in FORMULAS],
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        date=time.strftime("%Y-%m-%d"),
    )
    return text, missing


def _json(content: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(_finite(content), allow_nan=False).replace("<", "\\u003c")


def _finite(content: Any) -> Any:
    """``content`` with ``None`` for numbers that are not finite, which JSON cannot represent and charts omit."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _minus(cell: str) -> str:
    """A cell with a minus sign before negative numbers."""
    return re.sub(r"(?<![\w.-])-(?=[\d.])", "−", cell)


def _subscripts(formula: str) -> Markup:
    """A formula with subscripts as elements, since many fonts lack the letters."""
    text = str(escape(formula))
    return Markup(SUBSCRIPTS.sub(lambda found: f"<sub>{unicodedata.normalize('NFKC', found[0])}</sub>", text))


def _section(group: Group, missing: list[str]) -> Section:
    """A section of the page; what its folders lack is added to ``missing``, once for all runs that lack it."""
    labelled = [(entry.swept["label"], entry.results) for entry in group.entries]
    first = {entry.swept["label"]: entry for entry in reversed(group.entries)}
    entries = [first[label] for label in dict.fromkeys(label for label, _ in labelled)]
    environments = _found(group.entries, lambda entry: _environment(entry.folder), "hardware and date", missing)
    drawn = _found(entries, lambda entry: _curves(entry, True), "scores during training", missing)
    common, runs = _configs(entries)
    columns = head(labelled)
    return {
        "name": group.name,
        "seeds": sorted({results["seed"] for _, results in labelled}),
        "streams": list(dict.fromkeys(" → ".join(tasks(results)) for _, results in labelled)),
        "head": [f"{name}\N{NO-BREAK SPACE}{_better(name, labelled[0][1])}".rstrip() for name in columns],
        "rows": rows(labelled),
        "plane": plane(group),
        "matrices": matrices(group),
        "tables": tables(group),
        "curves": [found or _curves(entry, False) for found, entry in zip(drawn, entries, strict=True)],
        "config": common,
        "runs": runs,
        "environments": [json.loads(text) for text in sorted({json.dumps(made) for made in environments if made})],
    }


def _found(
    entries: Sequence[Entry], read: Callable[[Entry], Value], what: str, missing: list[str]
) -> list[Value | None]:
    """What is read of every run, ``None`` where it is missing; all runs that lack it add one line to ``missing``."""
    found: list[Value | None] = []
    errors: dict[str, str] = {}
    for entry in entries:
        try:
            found.append(read(entry))
        except SFAError as error:
            found.append(None)
            errors[entry.folder.name] = str(error)
    if errors:
        name, reason = next(iter(errors.items()))
        others = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        missing.append(f"{what} of {name}{others}: {reason}")
    return found


def _better(column: str, run: Results) -> str:
    """An arrow that says which way a column of the table is better; empty for one that is not a score."""
    if column in {"average loss", "forgetting"} | _losses(run) or (column == "new task score" and is_loss(run)):
        return "↓"
    return "↑" if column in HIGHER or column in {row["evaluation"] for row in run["evaluations"]} else ""


def _environment(folder: Path) -> dict[str, str]:
    """Hardware, torch version and date of a run's last stage."""
    stage = read_scored(folder)["stages"][-1]["fingerprint"]
    environment = read_manifest_of(folder, stage)["made"]
    return {"hardware": environment["hardware"], "torch": environment["torch"], "date": environment["date"]}


def _curves(entry: Entry, during_training: bool) -> Curves:
    points, merges, starts = curves.curves(entry.folder, during_training)
    return {
        "label": entry.swept["label"],
        "kind": curves.kind_of_scores(entry.results),
        "losses": sorted(_losses(entry.results)),
        "lines": points,
        "merges": merges,
        "stages": starts,
    }


def _losses(run: Results) -> set[str]:
    """Evaluations whose scores are better if they are lower."""
    return {row["evaluation"] for row in run["evaluations"] if row.get("lower_is_better")}


def _configs(entries: Sequence[Entry]) -> tuple[str, list[Run]]:
    """The part of the config that all settings share, and how each of them is run again."""
    configs = [_settings(entry) for entry in entries]
    shared = {key: value for key, value in configs[0].items() if all(_has(c, key, value) for c in configs)}
    runs: list[Run] = []
    for entry, config in zip(entries, configs, strict=True):
        own = {key: value for key, value in config.items() if key not in shared}
        arguments = entry.swept.get("arguments")
        again = f"sfa run {shlex.join(arguments)}" if arguments else ""
        runs.append({"label": entry.swept["label"], "command": again, "config": _yaml(own)})
    return _yaml(shared), runs


def _settings(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in flat(entry.results["config"]).items() if value is not None}


def _has(config: Mapping[str, Any], key: str, value: Any) -> bool:
    return key in config and config[key] == value


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True) if settings else ""


@command("python -m scripts.report")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 no results to report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_text = "runs/<run>, its results.json, or runs/<sweep>.json"
    parser.add_argument("places", nargs="+", type=files.path, metavar="RUN | SWEEP.json", help=help_text)
    parser.add_argument("--out", type=files.path, default=Path("runs/report.html"))
    args = parser.parse_args(arguments)
    text, missing = page(args.places)
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    print(files.write(args.out, text))
    return 0


if __name__ == "__main__":
    start(main)
