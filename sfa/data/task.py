"""What a task is: rows to train on, rows held out, and the evaluations that score it."""

import importlib.metadata
from abc import abstractmethod
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field


class Row(TypedDict):
    """One example. The model is trained on ``response`` given ``prompt``, with one space between them."""

    prompt: str
    response: str
    choices: NotRequired[list[str]]


TASKS: dict[str, type["Task"]] = {}


class Task(BaseModel):
    """A data set to fine-tune on. A subclass with a ``name`` registers itself; its fields are the options that a
    config may set, and are part of the fingerprint of everything trained on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str] = ""
    evals: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str | None] = None  # the Python package that the rows come from

    train: dict[str, Any] = Field({}, description="this task's own settings of the train block")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.name:
            TASKS[cls.name] = cls

    @abstractmethod
    def rows(self, split: Literal["train", "test"]) -> list[Row]:
        """The rows of a split, the same at every call. No row of ``test`` is in ``train``."""

    def data_spec(self) -> dict[str, Any]:
        """What determines the rows."""
        options = self.model_dump(mode="json", exclude={"train"})
        version = importlib.metadata.version(self.package) if self.package else None
        return {"name": self.name, "version": version, **options}
