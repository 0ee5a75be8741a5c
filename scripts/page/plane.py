"""The trade-off between tasks: each setting's final scores against each other, and how its method is drawn."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from scripts.interval import mean_interval
from scripts.page.by_task import BASE, losses, scores
from scripts.page.gather import Entry, Group, tasks
from scripts.series import format_value, label, look, order_of, trains_on_part
from sfa.methods import METHODS
from sfa.records import Results
from sfa.values import Overrides

SYMBOLS = {  # Plotly's names of matplotlib's markers
    "o": "circle", "v": "triangle-down", "s": "square", "^": "triangle-up", "D": "diamond", "p": "pentagon",
    "*": "star", "X": "x", "<": "triangle-left", ">": "triangle-right", "8": "octagon", "h": "hexagon2", "H": "hexagon",
    "P": "cross", "d": "diamond-tall",
}  # fmt: skip
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot", "none": "none"}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "epsilon": "ε", "strength": "λ"}


class Style(TypedDict):
    """How Plotly draws a method."""

    colour: str
    symbol: str
    dash: str


class PlanePoint(TypedDict):
    """A setting in the trade-off plane, with the values that set it apart from others of its method; ``scores`` are
    each task's mean and half its 95 % interval."""

    label: str
    method: str
    settings: str
    values: str
    runs: int
    scores: dict[str, tuple[float, float]]
    style: Style


class Plane(TypedDict):
    """Scores on any two tasks against each other; ``lines`` are the indices of points along each varied key, ``base``
    the scores of the model before the stream, and ``losses`` the tasks whose scores are better if they are lower."""

    losses: list[str]
    tasks: list[str]
    points: list[PlanePoint]
    lines: list[list[int]]
    base: dict[str, float]


def plane(group: Group) -> Plane:
    """One point per setting with finite scores on every task."""
    settings: dict[str, list[Entry]] = {}
    for entry in group.entries:
        settings.setdefault(entry.swept["label"], []).append(entry)
    first = group.entries[0].results
    names = tasks(first)
    finals = {name: [_final(entry.results) for entry in entries] for name, entries in settings.items()}
    drawn = {
        name: entries[0]
        for name, entries in settings.items()
        if all(math.isfinite(final.get(task, math.nan)) for final in finals[name] for task in names)
    }
    points: list[PlanePoint] = []
    for name, entry in drawn.items():
        method = str(entry.swept["point"]["method"])
        shown = _shown(entry, [other for other in drawn.values() if other.swept["point"]["method"] == method])
        alone = trains_on_part(entry.swept["point"])
        points.append(
            {
                "label": name,
                "method": label(method) + (", one domain alone" if alone else ""),
                "settings": ", ".join(f"{_key(key)}={_value(value)}" for key, value in shown.items())
                or _without_settings(entry),
                "values": " ".join(_value(value) for value in shown.values()) or _without_settings(entry),
                "runs": len(finals[name]),
                "scores": {task: mean_interval([final[task] for final in finals[name]]) for task in names},
                "style": style(method),
            }
        )
    return {
        "losses": [task for task in names if task in losses(first)],
        "tasks": names,
        "points": points,
        "lines": _lines([entry.swept["point"] for entry in drawn.values()]),
        "base": scores(first).get(BASE, {}),
    }


def style(method: str) -> Style:
    """How Plotly draws a method: as figures do."""
    own = look(method).style
    colour = str(own.get("markeredgecolor", own["color"]))
    grey = f"rgb({','.join([str(round(255 * float(colour)))] * 3)})" if colour[0].isdigit() else colour
    symbol = SYMBOLS[own.get("marker", "o")] + ("-open" if own["color"] == "white" else "")
    return {"colour": grey, "symbol": symbol, "dash": DASHES[own.get("linestyle", "-")]}


def _final(run: Results) -> dict[str, float]:
    return scores(run).get(run["stages"][-1]["task"], {})


def _shown(entry: Entry, alike: Sequence[Entry]) -> Overrides:
    """The settings that a point's label shows: those in which its method's points differ, or, if they are all alike,
    those that differ from the method's defaults, or else its first setting."""
    point = _settings(entry)
    differing = [key for key in point if len({str(_settings(other).get(key)) for other in alike}) > 1]
    method = str(entry.swept["point"]["method"])
    fields = METHODS[method].model_fields if method in METHODS else {}
    own = [key for key, value in point.items() if fields.get(key.rpartition(".")[2]) is None
           or fields[key.rpartition(".")[2]].default != value]  # fmt: skip
    first = [key for key in point if key.startswith(f"{method}.")][:1]
    return {key: point[key] for key in differing or own or first}


def _settings(entry: Entry) -> Overrides:
    """A point's settings that have a value, without those that only say which tasks are trained on."""
    point = {key: value for key, value in entry.swept["point"].items() if key != "method" and value not in (None, {})}
    return {key: value for key, value in point.items() if not trains_on_part({key: value})}


def _without_settings(entry: Entry) -> str:
    """The label of a point that no setting sets apart: the tasks trained on, if they are a part, or its method."""
    point = entry.swept["point"]
    if not trains_on_part(point):
        return label(str(point["method"]))
    return "only " + ", ".join(task["name"] for task in entry.results["config"]["tasks"] if not task["evaluate_only"])


def _key(key: str) -> str:
    name = key.rpartition(".")[2]
    return GREEK.get(name, name)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else format_value(value)


def _lines(points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places of the points along each varied key of a method, in order of its values; only those with the most
    common values of the other keys."""
    lines = []
    for method in dict.fromkeys(point["method"] for point in points):
        if style(str(method))["dash"] == "none":
            continue
        places = [i for i, point in enumerate(points) if point["method"] == method and not trains_on_part(point)]
        keys = dict.fromkeys(key for i in places for key in points[i] if key.startswith(f"{method}."))
        for key in keys:
            others = {i: str(sorted((k, str(v)) for k, v in points[i].items() if k != key)) for i in places}
            common, count = Counter(others.values()).most_common(1)[0]
            if count > 1:
                along = [i for i in places if others[i] == common]
                lines.append(sorted(along, key=lambda i: order_of(points[i].get(key))))
    return lines
