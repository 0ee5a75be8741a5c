"""What a task is: rows to train on, rows held out, and the evaluations that score it."""

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "test"]


class Row(TypedDict):
    """One example. The model is trained on ``response`` given ``prompt``, with one space between them; an evaluation
    may ask it to pick the response among ``choices``."""

    prompt: str
    response: str
    choices: NotRequired[list[str]]


TASKS: dict[str, type["Task"]] = {}


class Task(BaseModel):
    """A data set to fine-tune on. A subclass with a ``name`` registers itself; its fields are the options that a
    config may set, and are part of the fingerprint of everything trained on them.

    Attributes:
        evals: names of the evaluations that score it, files of ``eval/tasks``.
        package: the installed package that the rows come from.
        train: this task's own settings of the config's ``train`` block.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str] = ""
    evals: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = ""

    train: dict[str, Any] = Field({}, description="this task's own settings of the train block")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.name:
            TASKS[cls.name] = cls

    def rows(self, split: Split) -> list[Row]:
        """The rows of a split, the same at every call. No row of ``test`` is in ``train``."""
        raise NotImplementedError(f"{type(self).__name__} gives no rows")

    def data_spec(self) -> dict[str, Any]:
        """What determines the rows."""
        options = self.model_dump(mode="json", exclude={"train"})
        version = importlib.metadata.version(self.package) if self.package else None
        return {"name": self.name, "version": version, **options}


def package_folder(module: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {module}, which this task's data come from, is not installed")
    return Path(spec.submodule_search_locations[0])


def held_out(text: str, tenths: int) -> bool:
    """Whether ``text`` belongs to the held-out tenths, by its hash: the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 < tenths
