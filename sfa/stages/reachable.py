"""Names of the hub in a config that can neither be reached nor were downloaded."""

from pathlib import Path

from sfa import hub
from sfa.config.schema import Config
from sfa.data.source import Source
from sfa.data.sourced_task import SourcedTask


def unreachable(config: Config) -> list[str]:
    """A line for each such name, of a model or a data set."""
    lines = unreachable_models(config)
    for i, task in enumerate(config.tasks):
        if isinstance(task, SourcedTask) and not is_there(task.located()):
            lines.append(f"tasks.{i}: {task.source} cannot be reached on the hub, and was not downloaded")
    return lines


def unreachable_models(config: Config) -> list[str]:
    """A line for each such name of a model."""
    model = config.model
    named = [("name", model.name, model.revision), ("base", model.base, None)]
    return [
        f"model.{key}: {name} cannot be reached on the hub, and was not downloaded"
        for key, name, revision in named
        if name is not None and not Path(name).is_dir() and hub.commit(name, revision) is None
    ]


def is_there(source: Source) -> bool:
    """Whether a data set is in local files, or its commit is known."""
    return source.path is not None or hub.commit(source.name, source.revision, "dataset") is not None
