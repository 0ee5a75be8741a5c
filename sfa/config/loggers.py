"""Composer's loggers by their names in a config."""

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
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboard"}
EXTRAS = ("wandb", "mlflow")  # extras of this project; the other packages are dependencies


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


def make(config: Config, folder: Path) -> "list[LoggerDestination]":
    """Creates the loggers of a config, with its options over the defaults of this project.

    Args:
        config: the run's config.
        folder: folder of a stage's logs.
    """
    defaults: dict[LoggerName, Overrides] = {
        "tensorboard": {"log_dir": str(folder)},
        "file": {"filename": str(folder / "log.txt"), "overwrite": True, "remote_file_name": None},
        "wandb": {"project": "sfa", "group": config.name},
        "mlflow": {"experiment_name": config.name},
    }
    return [_kind(name)(**{**defaults[name], **options}) for name, options in config.loggers.items()]


def _kind(name: str) -> Any:
    import composer.loggers

    return getattr(composer.loggers, CLASSES[name])
