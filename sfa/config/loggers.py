"""Composer's loggers, as a config names them."""

import importlib.util
import inspect
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model

from sfa.config.schema import Config

if TYPE_CHECKING:
    from composer.loggers import LoggerDestination

CLASSES = {"tensorboard": "TensorboardLogger", "file": "FileLogger", "wandb": "WandBLogger", "mlflow": "MLFlowLogger"}
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboard"}
EXTRAS = ("wandb", "mlflow")  # of this project; the others come with it


def missing(name: str) -> str | None:
    """Says what to install if the package of a logger is not there."""
    package = PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    what = f"'.[{name}]'" if name in EXTRAS else package
    return f"needs the package {package}, which is not installed: pip install {what}"


def options(name: str) -> type[BaseModel]:
    """What a logger may be given, from the signature of its class. Importing that takes seconds."""
    kind = _kind(name)
    hints = typing.get_type_hints(kind.__init__)
    given = list(inspect.signature(kind).parameters.values())
    fields: dict[str, Any] = {part.name: (hints.get(part.name, Any), part.default) for part in given}
    settings = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(f"{kind.__name__}Options", __config__=settings, **fields)


def make(config: Config, folder: Path) -> "list[LoggerDestination]":
    """The loggers that the config names, with its options over the defaults of this project.

    Args:
        config: of the run.
        folder: of a stage's logs.
    """
    defaults: dict[str, dict[str, Any]] = {
        "tensorboard": {"log_dir": str(folder)},
        "file": {"filename": str(folder / "log.txt"), "overwrite": True, "remote_file_name": None},
        "wandb": {"project": "sfa", "group": config.name},
        "mlflow": {"experiment_name": config.name},
    }
    return [_kind(name)(**{**defaults[name], **given}) for name, given in config.loggers.items()]


def _kind(name: str) -> Any:
    import composer.loggers

    return getattr(composer.loggers, CLASSES[name])
