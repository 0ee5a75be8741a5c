"""The config in a finished run's results, read again."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfa.config.load import ConfigError, load
from sfa.config.messages import validated
from sfa.config.reading import reason, update
from sfa.config.schema import Config, config_class
from sfa.config.stream import read_tasks
from sfa.data import Task
from sfa.errors import UsageError
from sfa.records import Results

PLANNED = ("from_run", "order", "only")  # keys that say how the run was planned, which has been done
ADVICE = "Name a config that has these tasks with --config"


def recorded(results: Results, run: Path, overrides: Sequence[str] = (), names: Collection[str] = ()) -> Config:
    """The config of a finished run, to score models as it did. Values from the environment are read from it again.

    Args:
        results: the run's results.
        run: its folder, which may have been moved.
        overrides: like ``["eval.limit=20"]``, values parsed as YAML.
        names: tasks and evaluations that are needed; tasks that none of them is about are left out, since their data
            may be gone. By default, all tasks.

    Raises:
        UsageError: with all errors, such as data that are gone.
    """
    errors: list[str] = []
    try:
        content: Any = OmegaConf.create(dict(results["config"]))
        for override in overrides:
            update(content, override, errors)
        raw: dict[str, Any] = OmegaConf.to_container(content, resolve=True)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UsageError(f"the config of {run} cannot be read: {reason(error)}") from error
    if errors:
        raise UsageError("\n".join(errors))
    entries = [
        {key: value for key, value in task.items() if value is not None and key != "evaluate_only"}
        for task in raw.pop("tasks")
    ]
    wanted = [task for task in entries if {*names} & {task["name"], *task["evals"], *Task.declares(task["name"])}]
    tasks = read_tasks(wanted or entries, raw.get("data_folder"), errors).tasks
    kept = {key: value for key, value in raw.items() if key not in PLANNED}
    config = validated(config_class(), {**kept, "tasks": tasks, "save_folder": run.parent}, "", errors)
    if errors or config is None:
        written = _as_written(results, run, overrides)  # a record may lack what tells the kind of a task
        if written is not None:
            return written
        raise UsageError(f"the config of {run} cannot be used any more: {'; '.join(errors)}", ADVICE)
    return config


def _as_written(results: Results, run: Path, overrides: Sequence[str]) -> Config | None:
    """The config's file as the run read it, if it exists and still describes the same tasks; otherwise ``None``."""
    file, *arguments = results.get("arguments", [""])
    if not Path(file).is_file():
        return None
    try:
        config = load(file, [*arguments, *overrides, f"save_folder={json.dumps(str(run.parent))}"])
    except ConfigError:
        return None  # the record's own errors are reported
    return config if config.conceal(config.model_dump(mode="json"))["tasks"] == results["config"]["tasks"] else None
