"""The finished runs that a report is about, in groups with the same tasks, and what is missing."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.compare import LOCATION_KEYS
from sfa.errors import SFAError, UsageError
from sfa.records import Results, SweptRun
from sfa.runs import has_results, read_scored, read_sweep, results_file, run_folder
from sfa.values import Overrides

MOST_NAMES = 5  # of runs without results, in one line


class Entry(NamedTuple):
    """A finished run: how its sweep describes it, its results, and its folder."""

    swept: SweptRun
    results: Results
    folder: Path


class Group(NamedTuple):
    """Finished runs with the same tasks, in any order; a label is shared by runs that differ only in seed or order."""

    name: str
    entries: list[Entry]


def gather(places: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """The finished runs in some places, and one line about each thing that is missing.

    Args:
        places: folders of runs, or their files of results, which form a group; and files of sweeps, each a group.

    Raises:
        SFAError: nothing is left; the first thing that is missing.
    """
    missing: list[SFAError] = []
    folders = list(dict.fromkeys(folder for place in places if (folder := _run_of(place)) is not None))
    groups = [Group("runs", _as_swept(folders, missing))]
    for index in (place for place in places if _run_of(place) is None):
        try:
            sweep = read_sweep(index)
        except SFAError as error:
            missing.append(error)
            continue
        named = [(run, run_folder(index.parent, run["name"])) for run in sweep["runs"]]
        done = [(run, folder) for run, folder in named if has_results(folder)]
        if not done:
            missing.append(UsageError(f"no run of {index} has results: run the sweep first"))
        elif len(done) < len(named):
            missing.append(_without_results(index, [run["name"] for run, folder in named if not has_results(folder)]))
        entries = [
            Entry(run, results, folder) for run, folder in done if (results := _read(folder, missing)) is not None
        ]
        groups.append(Group(sweep["sweep"], entries))
    found = [part for group in groups for part in _by_tasks(group)]
    if not found:
        raise missing[0]
    return found, [str(error) for error in missing]


def tasks(results: Results) -> list[str]:
    """A run's stream."""
    return [str(task["name"]) for task in results["config"]["tasks"]]


def _run_of(place: Path) -> Path | None:
    """The folder of the run that a place is; ``None``: it is a sweep's file."""
    return place if place.is_dir() else place.parent if place.name == results_file(place).name else None


def _without_results(index: Path, names: Sequence[str]) -> UsageError:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return UsageError(f"{index}: no results of {', '.join(names[:MOST_NAMES])}{more}: run the sweep again to make them")


def _read(folder: Path, missing: list[SFAError]) -> Results | None:
    try:
        return read_scored(folder)
    except SFAError as error:
        missing.append(error)
        return None


def _as_swept(folders: Sequence[Path], missing: list[SFAError]) -> list[Entry]:
    """Runs on their own, described by their method's settings as those of a sweep are."""
    found = [(folder, results) for folder in folders if (results := _read(folder, missing)) is not None]
    repeats: dict[str, list[tuple[Path, Results]]] = {}
    for folder, results in found:
        repeats.setdefault(_without_seed(results), []).append((folder, results))
    entries = []
    for folder, results in found:
        method = results["config"]["method"]
        settings: Overrides = dict(results["config"]).get(method) or {}  # type: ignore[assignment]
        point = {"method": method, **{f"{method}.{key}": value for key, value in settings.items() if value is not None}}
        run: SweptRun = {
            "label": _shared_name(repeats[_without_seed(results)]),
            "point": point,
            "seed": results["seed"],
            "name": folder.name,
        }
        if "arguments" in results:
            run["arguments"] = results["arguments"]
        entries.append(Entry(run, results, folder))
    return entries


def _without_seed(results: Results) -> str:
    """The config of a run, except for its seed and names."""
    config = {key: value for key, value in results["config"].items() if key not in ("seed", *LOCATION_KEYS)}
    return json.dumps(config, sort_keys=True)


def _shared_name(runs: Sequence[tuple[Path, Results]]) -> str:
    """The name of a run, or, of runs that differ in their seed, that of the first without its seed."""
    folder, results = runs[0]
    seed = f"-{results['seed']}"
    return folder.name if len(runs) == 1 else f"{folder.name.removesuffix(seed)}, {len(runs)} seeds"


def _by_tasks(group: Group) -> Iterator[Group]:
    """The group, or one for each set of tasks."""
    parts: dict[tuple[str, ...], list[Entry]] = {}
    for entry in group.entries:
        parts.setdefault(tuple(sorted(tasks(entry.results))), []).append(entry)
    for entries in parts.values():
        yield Group(
            group.name if len(parts) == 1 else f"{group.name}: {' → '.join(tasks(entries[0].results))}", entries
        )
