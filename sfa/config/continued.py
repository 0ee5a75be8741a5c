"""A stream that continues a finished run: that run's tasks come first, as far as their data still exist."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sfa import runs
from sfa.config.messages import validated
from sfa.data import Task, kind_of, looking_in
from sfa.data.source import SourceError
from sfa.data.task import GoneTask
from sfa.errors import SFAError
from sfa.values import LocalPath, Overrides, flat

LOCATIONS = ("name", "revision", "base")  # of a model, which the finished run has already built


def continue_run(raw: Overrides, errors: list[str]) -> list[Task]:
    """The tasks of the run that ``raw``'s ``from_run`` names, and whose stages are kept; empty without one. They are
    removed from the tasks of ``raw``, which gets that run's model if it has none.

    Args:
        raw: a config as it was read; changed in place.
        errors: is extended by one line per error.
    """
    if raw.get("from_run") is None:
        return []
    try:
        run: Path = TypeAdapter(LocalPath).validate_python(raw["from_run"])
        results = runs.read_results(run)
    except ValidationError:
        return []  # reported with the config's own errors
    except SFAError as error:
        errors.append(f"from_run: {error.message}")
        return []
    config: Any = results["config"]
    save_folder = Path(str(raw.get("save_folder", "runs")))
    if run.parent.resolve() != save_folder.expanduser().resolve():
        errors.append(f"from_run: {run} must be in save_folder, {save_folder}, where its stages are")
    _compare_models(raw, config["model"], run, errors)
    kept = {stage["task"] for stage in results["stages"]}
    recorded = [dict(task) for task in config["tasks"]]
    if kept.isdisjoint(task["name"] for task in recorded):  # a stage for all of them at once
        kept = {task["name"] for task in recorded if not task["evaluate_only"]}
    entries = raw["tasks"] if isinstance(raw.get("tasks"), list) else []
    listed = {_name(entry): entry for entry in entries}
    raw["tasks"] = [entry for entry in entries if _name(entry) not in {task["name"] for task in recorded}]
    if not raw["tasks"]:
        errors.append(f"tasks: must list a task that {run} was not trained on: {', '.join(sorted(kept))}")
    folder = raw.get("data_folder")
    return [_task(task, listed.get(task["name"]), folder, errors) for task in recorded]


def _name(entry: Any) -> str:
    return str(entry.get("name") if isinstance(entry, dict) else entry)


def _task(recorded: Overrides, entry: Any, data_folder: Any, errors: list[str]) -> Task:
    """A task of the finished run: as the config lists it, or else as it is recorded. If its data do not exist, it keeps
    the scores that the run has."""
    written = entry if isinstance(entry, dict) else {}
    options = {key: value for key, value in recorded.items() if value is not None} | written
    folder = None if data_folder is None else Path(str(data_folder))
    of_entry = errors if written else []  # a record alone may lack what tells its kind of task
    try:
        kind = kind_of(options, folder) or GoneTask
        task = validated(kind, options, f"tasks.{recorded['name']}.", of_entry, looking_in(folder))
        if task is not None:
            task.data_spec()
            return task
    except SourceError:
        return GoneTask.model_validate(recorded)
    return GoneTask.model_validate(recorded)


def _compare_models(raw: Overrides, recorded: Overrides, run: Path, errors: list[str]) -> None:
    """Adds the finished run's model to a config without one, and otherwise an error if they differ."""
    if "model" not in raw:
        raw["model"] = recorded
        return
    model: Overrides = raw["model"] if isinstance(raw["model"], dict) else {}
    if "lora" in model and (model["lora"] is None) != (recorded.get("lora") is None):
        kind = "whole weights" if recorded.get("lora") is None else "adapters"
        errors.append(f"model.lora: {run} trains {kind}, and its model is trained further: leave lora as it was")
    given, former = flat(model), flat(recorded)
    for key, value in given.items():
        if key not in LOCATIONS and not key.startswith("config") and former.get(key, value) != value:
            errors.append(f"model.{key}: is {former[key]} in {run}, whose model is trained further, not {value}")
