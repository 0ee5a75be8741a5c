"""Composer's loggers by their names in a config."""

import copy
import importlib.util
import inspect
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model

from sfa.config.schema import Config, LoggerName
from sfa.values import Overrides

if TYPE_CHECKING:
    from composer.loggers import LoggerDestination

CLASSES = {"tensorboard": "TensorboardLogger", "file": "FileLogger", "wandb": "WandBLogger", "mlflow": "MLFlowLogger"}
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "tensorboard": "tensorboard"}
EXTRAS = ("wandb", "mlflow", "trackio")  # extras of this project; the other packages are dependencies
PROJECT = "sfa"  # what holds the runs of all configs in a tracker


def missing(name: str) -> str | None:
    """What to install if the package of a logger is missing; ``None`` if it is installed."""
    package = PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    target = f"'.[{name}]'" if name in EXTRAS else package
    return f"needs the package {package}, which is not installed: pip install {target}"


def options(name: str) -> type[BaseModel]:
    """The options of a logger, from the signature of its class. Importing that takes seconds."""
    kind = _kind(name)
    hints = typing.get_type_hints(kind.__init__)
    parameters = inspect.signature(kind).parameters.values()
    fields: dict[str, Any] = {p.name: (hints.get(p.name, Any), p.default) for p in parameters}
    settings = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(f"{kind.__name__}Options", __config__=settings, **fields)


def of_stage(config: Config, folder: Path) -> "list[LoggerDestination]":
    """Creates the loggers of a stage's training, with a config's options over the defaults of this project.

    Args:
        config: the run's config.
        folder: folder of the stage's logs.
    """
    defaults: dict[LoggerName, Overrides] = {
        "tensorboard": {"log_dir": str(folder)},
        "file": {"filename": str(folder / "log.txt"), "overwrite": True, "remote_file_name": None},
        "wandb": {"project": PROJECT, "group": config.name},
        "mlflow": {"experiment_name": PROJECT, "run_group": config.name},
        "trackio": {"project": PROJECT, "group": config.name},
    }
    given = copy.deepcopy(config.loggers)  # W&B's and MLflow's write the name of the training into what they are given
    return [_kind(name)(**{**defaults[name], **options}) for name, options in given.items()]


def of_run(config: Config, folder: Path) -> "list[LoggerDestination]":
    """Creates the loggers of a whole run. A file has none: there, it is ``results.json``.

    Args:
        config: the run's config.
        folder: folder of the run's logs.
    """
    trackers = {name: options for name, options in config.loggers.items() if name != "file"}
    if "mlflow" in trackers:  # a score that did not change is a point of its curve, too; nothing runs that has a load
        defaults = {"log_duplicated_metric_every_n_steps": 1, "log_system_metrics": False}
        trackers["mlflow"] = {**defaults, **trackers["mlflow"]}
    return of_stage(config.model_copy(update={"loggers": trackers}), folder)


def _kind(name: str) -> Any:
    import composer.loggers

    if name == "trackio":  # Composer has none for it
        from sfa.config.trackio_logger import TrackioLogger

        return TrackioLogger
    return getattr(composer.loggers, CLASSES[name])
