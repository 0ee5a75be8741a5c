"""What a kind of evaluation is: a file in ``eval/kinds`` with a subclass of :class:`Kind`, which registers itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfa.data import Task
from sfa.data.template import DATE, Layout, Template
from sfa.records import Score

if TYPE_CHECKING:
    from sfa.data.packing import LongRows  # seconds to import

KINDS: dict[str, type["Kind"]] = {}


@dataclass(frozen=True)
class Settings:
    """How evaluations are scored.

    Attributes:
        template: how a prompt is shown to the model.
        seq_len: tokens of the longest row of which a loss is taken.
        limit: rows of each evaluation, drawn with a seed; all of them if ``None``.
        batch_size: rows at once.
        bf16: compute in bfloat16.
        unshard: gather the weights of a sharded model for the evaluation.
        data_folder: local copies of hub data sets.
        system: see :class:`sfa.data.template.Layout`.
        date: likewise.
        long_rows: what is done with longer rows, as in training.
        cache: folder of prepared images.
    """

    template: Template = "plain"
    seq_len: int = 1024
    limit: int | None = None
    batch_size: int = 32
    bf16: bool = False
    unshard: bool = True
    data_folder: Path | None = None
    system: str | None = None
    date: date = DATE
    long_rows: "LongRows" = "drop"
    cache: Path = Path("runs/data")

    @property
    def layout(self) -> Layout:
        return Layout(self.template, self.system, self.date)


class Part(NamedTuple):
    """What one rank measured: its rows' values, ``[n, m]``, whose columns are the kind's own; and how many rows were
    too long and left out, or cut."""

    values: NDArray[np.float64]
    dropped: int = 0
    cut: int = 0


class Kind(ABC):
    """The evaluations of one kind in a run.

    Attributes:
        name: of the kind; tasks declare evaluations by it.
        lower_is_better: of its scores.
        unit: what its rows are called.
        backends: of ``scripts.evaluate`` that can score it.
        modules: what scoring imports, so that processes can be forked from one that has.

    Args:
        names: of the evaluations.
        stream: the run's tasks.
        settings: how they are scored.
    """

    name: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "rows"
    backends: ClassVar[tuple[str, ...]] = ("hf",)
    modules: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            KINDS[cls.name] = cls

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        self.names, self.settings = list(names), settings

    @classmethod
    @abstractmethod
    def owned(cls, stream: Sequence[Task]) -> list[str]:
        """The names of evaluations of this kind that a run of these tasks may ask for."""

    @abstractmethod
    def key(self, name: str) -> str:
        """Hash of what now determines the score of a given model."""

    @abstractmethod
    def load(self, name: str, model: Any, processor: Any) -> None:
        """Reads the rows of an evaluation."""

    @abstractmethod
    def count(self, name: str) -> int:
        """How many rows a loaded evaluation has."""

    @abstractmethod
    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, Part]:
        """Of each loaded evaluation the values of these of its rows, by a live model in evaluation mode."""

    @abstractmethod
    def score(self, name: str, parts: Sequence[Part]) -> Score:
        """The score that all ranks' parts come to."""

    def drive(self, lm: Any, tokenizer: Any) -> dict[str, Part]:
        """The values of all rows of all evaluations, by a model of another backend."""
        raise NotImplementedError(f"{self.name} is scored with --backend {' or '.join(self.backends)} alone")


def mean_score(name: str, metric: str, values: NDArray[np.float64]) -> Score:
    """The mean of rows' values, ``[n]``, with its standard error."""
    n = len(values)
    stderr = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Score(evaluation=name, metric=metric, value=float(values.mean()), stderr=stderr, n=n)


def with_counts(score: Score, parts: Sequence[Part]) -> Score:
    """``score`` with how many rows were too long, where there were any."""
    dropped, cut = sum(part.dropped for part in parts), sum(part.cut for part in parts)
    if dropped:
        score["dropped"] = dropped
    if cut:
        score["cut"] = cut
    return score
