"""Sweep files, extended by the paper's tables and figures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from sfa import sweeps as sweep
from sfa.config import Evaluations
from sfa.sweeps import SweepFile, SweepRun
from sfa.values import Overrides, Section


class PaperTable(Section):
    """A table of the paper. A run whose overrides include ``row`` and ``paper`` is one of its rows, with the paper's
    scores in the order of ``columns``, and optionally ``paper_l2``, its distance from the model after task 1."""

    title: str
    columns: list[str] = Field(min_length=1, description="evaluations")
    original: list[float] = Field(description="the paper's scores of the model before the stream")


class Figure(Section):
    """A figure, drawn from a sweep's runs. Trade-offs of the same name are panels of one picture.

    ======== =====================================================================================
    kind     content
    ======== =====================================================================================
    tradeoff scores on two domains against each other, ``x`` and ``y``
    methods  the same of every method and setting, a mark each
    each     the same, a picture for each method among the others, in a folder
    bars     the average over all tasks, one bar per method
    distance the distance from the anchor against ``y``
    stream   every score over the training steps, a panel for each of ``runs``
    together one ``evaluation`` over the training steps, a line for each of ``runs``
    ======== =====================================================================================
    """

    name: str = Field(
        pattern=r"^([0-9]+[a-z]?|[a-z]+)$", description="its number in the paper, such as 6 or 6b, or a word"
    )
    kind: Literal["tradeoff", "methods", "each", "bars", "distance", "stream", "together"]
    x: dict[str, list[str]] = Field({}, description="domains, each with its evaluations")
    y: dict[str, list[str]] = Field({}, description="domains, each with its evaluations")
    methods: list[str] | None = Field(None, description="only these")
    where: Overrides = Field({}, description="among runs that set these keys, only those with these values")
    stream: list[str] | None = Field(None, description="only runs with these tasks in this order")
    runs: list[str] = Field([], description="labels of runs")
    evaluation: str | None = None
    by_time: bool = Field(False, description="of methods: marks as large as the training is long")


class PaperSweep(SweepFile):
    """A sweep with the paper's table and figures that are made from its runs."""

    row_keys: ClassVar[tuple[str, ...]] = ("row", "paper", "paper_l2", "config")

    table: PaperTable | None = None
    figures: list[Figure] = Field([], description="figures drawn from its runs")

    @field_validator("figures")
    @classmethod
    def _only_tradeoffs_have_panels(cls, figures: list[Figure]) -> list[Figure]:
        counts = Counter(figure.name for figure in figures)
        for figure in figures:
            if counts[figure.name] > 1 and figure.kind != "tradeoff":
                raise ValueError(f"two figures are named {figure.name}: only those of kind tradeoff are panels of one")
        return figures


def read(path: Path, overrides: Sequence[str] = (), evaluations: Evaluations | None = None) -> list[SweepRun]:
    """See :func:`sfa.sweeps.read`."""
    return sweep.read(path, overrides, evaluations, PaperSweep)


def read_file(path: Path, overrides: Sequence[str] = ()) -> tuple[PaperSweep, list[str]]:
    """See :func:`sfa.sweeps.read_file`."""
    return sweep.read_file(path, overrides, PaperSweep)
