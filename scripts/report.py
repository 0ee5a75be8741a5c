"""Writes one self-contained HTML page of results: tables, trade-off planes, curves, configs and commands.

sfa report runs/mine runs/plain --out runs/report.html
sfa report runs/words.json runs/glyphs.json

A folder is that of a finished run; all runs that are named share a section. A file lists the runs of a sweep, of which
those without results are omitted.
"""

import argparse
import importlib.metadata
import json
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from scripts import files
from scripts.interval import mean_interval
from scripts.series import base_scores, label, look, order_of, scores, trains_on_part, varied
from scripts.summary import FORMULAS, head, rows
from sfa import curves
from sfa.data import Task
from sfa.errors import UsageError
from sfa.records import Results, SweptRun
from sfa.runs import has_results, read_manifest_of, read_results, read_sweep, run_folder
from sfa.terminal import command, start
from sfa.values import Overrides, flat

PACKAGES = ("mosaicml", "torch", "transformers", "datasets", "lm_eval", "mergekit")
SYMBOLS = {"o": "circle", "v": "triangle-down", "s": "square", "^": "triangle-up", "D": "diamond", "p": "pentagon",
           "*": "star", "X": "x"}  # fmt: skip
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot", "none": "none"}


class Style(TypedDict):
    """How Plotly draws a method."""

    colour: str
    symbol: str
    dash: str


class PlanePoint(TypedDict):
    """A label in the trade-off plane; ``scores`` are each task's mean and half its 95 % interval."""

    label: str
    method: str
    joined: bool
    order: float
    settings: str
    runs: int
    scores: dict[str, tuple[float, float]]
    style: Style


class Plane(TypedDict):
    """Scores on any two tasks against each other; ``base`` are those of the model before the stream, and ``losses``
    the tasks whose scores are better if they are lower."""

    losses: list[str]
    tasks: list[str]
    points: list[PlanePoint]
    base: dict[str, float]


class Curves(TypedDict):
    """A run's scores over its steps, by evaluation, with its merges and the starts of its stages, and what the scores
    are."""

    label: str
    kind: str
    lines: dict[str, list[tuple[int, float]]]
    merges: list[int]
    stages: list[tuple[int, str]]


class SweepSection(TypedDict):
    """A sweep's section of the page."""

    name: str
    seeds: list[int]
    streams: list[str]
    head: list[str]
    rows: list[list[str]]
    plane: Plane
    curves: list[Curves]
    runs: list[dict[str, str]]
    environments: list[dict[str, str]]


Finished = Sequence[tuple[SweptRun, Path]]  # runs with results, and their folders


def page(places: Sequence[Path]) -> str:
    """The report on sweeps and runs.

    Args:
        places: files that list a sweep's runs, and folders of runs.

    Raises:
        UsageError: a file lists no runs, or none of them has results; or a folder is not that of a finished run.
    """
    folders = [place for place in places if place.is_dir()]
    sections = [("runs", [(_as_swept(folder), folder) for folder in folders])]
    for index in (place for place in places if not place.is_dir()):
        sweep = read_sweep(index)
        listed = [(run, run_folder(index.parent, run["name"])) for run in sweep["runs"]]
        sections.append((sweep["sweep"], [(run, folder) for run, folder in listed if has_results(folder)]))
    sweeps = [_section(name, finished) for name, finished in sections if finished]
    if not sweeps:
        raise UsageError(f"no run of {', '.join(map(str, places))} has results: run the sweep first")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("report.html").render(
        sweeps=sweeps,
        data=Markup(_script([{"plane": sweep["plane"], "curves": sweep["curves"]} for sweep in sweeps])),
        plotly=Markup(get_plotlyjs()),
        formulas=FORMULAS,
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        date=time.strftime("%Y-%m-%d"),
    )


def _script(content: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(_finite(content), allow_nan=False).replace("<", "\\u003c")


def _finite(content: Any) -> Any:
    """``content`` with ``None`` for numbers that are not finite, which JSON cannot represent and charts omit."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _as_swept(folder: Path) -> SweptRun:
    """A run on its own as one of a sweep: labelled with its name, and described by its method's settings."""
    results = read_results(folder)
    method = results["config"]["method"]
    settings = flat(dict(results["config"]).get(method) or {})
    point = {"method": method, **{f"{method}.{key}": value for key, value in settings.items() if value is not None}}
    arguments = {"arguments": results["arguments"]} if "arguments" in results else {}
    run: SweptRun = {"label": folder.name, "point": point, "seed": results["seed"], "name": folder.name}
    return {**run, **arguments}  # type: ignore[typeddict-item]


def _section(name: str, finished: Finished) -> SweepSection:
    """A section of the page on runs that have results."""
    results = [read_results(folder) for _, folder in finished]
    labelled = [(run["label"], run["point"], result) for (run, _), result in zip(finished, results, strict=True)]
    first = {run["label"]: (run, folder) for run, folder in reversed(finished)}
    environments = {json.dumps(_environment(folder), sort_keys=True) for _, folder in finished}
    return {
        "name": name,
        "seeds": sorted({result["seed"] for result in results}),
        "streams": list(dict.fromkeys(" → ".join(_tasks(result)) for result in results)),
        "head": head([(name, result) for name, _, result in labelled]),
        "rows": rows([(name, result) for name, _, result in labelled]),
        "plane": _plane(labelled),
        "curves": [_curves(name, folder) for name, (_, folder) in sorted(first.items())],
        "runs": [_run(name, run, folder) for name, (run, folder) in sorted(first.items())],
        "environments": [json.loads(text) for text in sorted(environments)],
    }


def _tasks(results: Results) -> list[str]:
    return [str(task["name"]) for task in results["config"]["tasks"]]


def _environment(folder: Path) -> dict[str, str]:
    """Hardware, torch version and date of a run's last stage."""
    stage = read_results(folder)["stages"][-1]["fingerprint"]
    environment = read_manifest_of(folder, stage)["made"]
    return {"hardware": environment["hardware"], "torch": environment["torch"], "date": environment["date"]}


def _plane(labelled: Sequence[tuple[str, Overrides, Results]]) -> Plane:
    """One point per label with its score on every task, sorted along each method's line."""
    grouped: dict[str, tuple[Overrides, list[Results]]] = {}
    for name, point, results in labelled:
        grouped.setdefault(name, (point, []))[1].append(results)
    tasks = _tasks(labelled[0][2])
    points: list[PlanePoint] = []
    for name, (point, runs) in grouped.items():
        finals = [_by_task(run, scores(run, -1)) for run in runs]
        if not all(math.isfinite(final.get(task, math.nan)) for final in finals for task in tasks):
            continue
        keys = varied(list(grouped.values()), str(point["method"]))
        key = max(keys, key=lambda k: keys[k], default="")
        style = _style(str(point["method"]))
        settings = {k.rpartition(".")[2]: v for k, v in point.items() if k != "method" and v is not None}
        points.append(
            {
                "label": name,
                "method": label(str(point["method"])) + (", one domain alone" if trains_on_part(point) else ""),
                "joined": keys.get(key, 0) > 1 and not trains_on_part(point) and style["dash"] != "none",
                "order": order_of(point.get(key)),
                "settings": ", ".join(f"{k}={v}" for k, v in settings.items()),
                "runs": len(runs),
                "scores": {task: mean_interval([final[task] for final in finals]) for task in tasks},
                "style": style,
            }
        )
    first = labelled[0][2]
    lower = {row["evaluation"] for row in first["evaluations"] if row.get("lower_is_better")}
    losses = [str(task["name"]) for task in first["config"]["tasks"] if task["evals"] and {*task["evals"]} <= lower]
    points = sorted(points, key=lambda point: (point["method"], point["order"]))
    return {"losses": losses, "tasks": tasks, "points": points, "base": _by_task(first, base_scores(first))}


def _by_task(run: Results, by_evaluation: dict[str, float]) -> dict[str, float]:
    """Each task's mean over those of its evaluations that were scored."""
    means = {}
    for task in run["config"]["tasks"]:
        names = {*task["evals"], *Task.declares(task["name"])}
        values = [value for name, value in by_evaluation.items() if name in names]
        if values:
            means[str(task["name"])] = sum(values) / len(values)
    return means


def _style(method: str) -> Style:
    style = look(method).style
    colour = str(style.get("markeredgecolor", style["color"]))
    grey = f"rgb({','.join([str(round(255 * float(colour)))] * 3)})" if colour[0].isdigit() else colour
    symbol = SYMBOLS[style.get("marker", "o")] + ("-open" if style["color"] == "white" else "")
    return {"colour": grey, "symbol": symbol, "dash": DASHES[style.get("linestyle", "-")]}


def _curves(name: str, folder: Path) -> Curves:
    points, merges, starts = curves.curves(folder)
    kind = curves.kind_of_scores(read_results(folder))
    return {"label": name, "kind": kind, "lines": points, "merges": merges, "stages": starts}


def _run(name: str, run: SweptRun, folder: Path) -> dict[str, str]:
    config = read_results(folder)["config"]
    settings = {key: value for key, value in flat(config).items() if value is not None}
    return {
        "label": name,
        "command": f"sfa run {shlex.join(run['arguments'])}" if "arguments" in run else "",
        "config": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
    }


@command("python -m scripts.report")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 no results to report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_text = "runs/<run>, or runs/<sweep>.json"
    parser.add_argument("places", nargs="+", type=files.path, metavar="RUN | SWEEP.json", help=help_text)
    parser.add_argument("--out", type=files.path, default=Path("runs/report.html"))
    args = parser.parse_args(arguments)
    print(files.write(args.out, page(args.places)))
    return 0


if __name__ == "__main__":
    start(main)
