"""The interface of a kind of evaluation: a file in ``eval/kinds`` with a subclass of :class:`Kind`, which registers
itself."""

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
from sfa.outcomes import pack
from sfa.records import Score

if TYPE_CHECKING:
    from sfa.data.packing import LongRows  # seconds to import

KINDS: dict[str, type["Kind"]] = {}


@dataclass(frozen=True)
class Settings:
    """How evaluations are scored.

    Attributes:
        template: how a prompt is presented to the model.
        seq_len: tokens of the longest row in a loss.
        limit: rows of each evaluation, drawn with a seed; all if ``None``.
        batch_size: rows per batch.
        bf16: compute in bfloat16.
        unshard: gather the weights of a sharded model for the evaluation.
        data_folder: local copies of hub data sets.
        system: see :class:`sfa.data.template.Layout`.
        date: likewise.
        long_rows: how longer rows are handled, as in training.
        cache: folder of prepared images.
        task_folder: further task files for the prior suite.
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
    task_folder: Path | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.template, self.system, self.date)


class RankResult(NamedTuple):
    """The results of one rank: values of its rows, ``[n, m]``, with columns defined by the kind, and how many rows were
    left out or cut as too long."""

    values: NDArray[Any]
    dropped: int = 0
    cut: int = 0


class Kind(ABC):
    """The evaluations of one kind in a run.

    Attributes:
        name: name of the kind, used by tasks to declare evaluations.
        lower_is_better: whether lower scores are better.
        unit: plural noun for its rows.
        backends: backends of ``scripts.evaluate`` that can score it.
        modules: modules that scoring imports, so that a process can import them before forking.

    Args:
        names: names of the evaluations.
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
        """The names of this kind's evaluations that are available to a run of these tasks."""

    @classmethod
    def owns(cls, name: str, stream: Sequence[Task]) -> bool:
        """Whether an evaluation of a run of these tasks is of this kind."""
        return name in cls.owned(stream)

    @abstractmethod
    def key(self, name: str) -> str:
        """Hash of what currently determines a model's score."""

    @abstractmethod
    def load(self, name: str, model: Any, processor: Any) -> None:
        """Reads the rows of an evaluation."""

    @abstractmethod
    def count(self, name: str) -> int:
        """How many rows a loaded evaluation has."""

    @abstractmethod
    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        """The values of these rows of each loaded evaluation, from a live model in evaluation mode."""

    @abstractmethod
    def score(self, name: str, results: Sequence[RankResult]) -> Score:
        """The score from the results of all ranks."""

    def drive(self, lm: Any, tokenizer: Any) -> dict[str, RankResult]:
        """The values of all rows of all evaluations, from a model of another backend."""
        raise NotImplementedError(f"{self.name} can only be scored with --backend {' or '.join(self.backends)}")


def mean_score(name: str, metric: str, values: NDArray[np.float64]) -> Score:
    """The mean of rows' values, ``[n]``, with its standard error, and the rows' outcomes if each is 0 or 1."""
    n = len(values)
    stderr = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    score = Score(evaluation=name, metric=metric, value=float(values.mean()), stderr=stderr, n=n)
    if (outcomes := pack(values)) is not None:
        score["outcomes"] = outcomes
    return score


def in_row_order(results: Sequence[RankResult]) -> NDArray[Any]:
    """The values of all rows, of which each rank scored every n-th."""
    values: NDArray[Any] = np.concatenate([result.values for result in results])
    for rank, result in enumerate(results):
        values[rank :: len(results)] = result.values
    return values


def with_counts(score: Score, results: Sequence[RankResult]) -> Score:
    """``score`` with the numbers of rows that were too long, if any."""
    dropped, cut = sum(result.dropped for result in results), sum(result.cut for result in results)
    if dropped:
        score["dropped"] = dropped
    if cut:
        score["cut"] = cut
    return score
