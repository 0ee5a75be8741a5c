"""What the files of ``runs/`` hold, as types that what is read is checked against. :mod:`sfa.runs` reads and writes."""

import functools
import re
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, TypeVar, cast

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, with_config
from typing_extensions import TypedDict

from sfa.store import PLAIN_NAME, DamagedStage

SCHEMA = 2  # of results.json; 1, which said nothing of itself, called a score's evaluation its task

Record = TypeVar("Record")
Overrides = dict[str, Any]  # of a config: keys, and what YAML can say
OPEN = ConfigDict(extra="allow")  # records of other releases may say more


class Foreign(ValueError):
    """Content that is not what it should be; the message names the place."""


def fingerprint_of(given: object, save_folder: Path) -> str:
    """``given``, if it is the fingerprint of a stage.

    Raises:
        DamagedStage: it is none, and could lead anywhere.
    """
    if not isinstance(given, str) or not re.fullmatch("[0-9a-f]{16}", given):
        raise DamagedStage(f"{given!r} is the fingerprint of no stage: a file in {save_folder} was changed")
    return given


def run_name_of(given: object, save_folder: Path) -> str:
    """``given``, if it is the name of a run.

    Raises:
        DamagedStage: it is the name of no folder in ``save_folder``, and could lead anywhere.
    """
    if not isinstance(given, str) or not re.fullmatch(PLAIN_NAME, given) or "\n" in given:
        raise DamagedStage(f"{given!r} is the name of no run: a file in {save_folder} was changed")
    return given


def _fingerprint(given: object, info: ValidationInfo) -> str:
    assert info.context is not None
    return fingerprint_of(given, info.context["save_folder"])


def _run_name(given: object, info: ValidationInfo) -> str:
    assert info.context is not None
    return run_name_of(given, info.context["save_folder"])


def _of_schema_2(row: object) -> object:
    """A score as it is written now. Schema 1 called the evaluation ``task`` and did not say that a loss is better if it
    is lower; read for one release."""
    if not isinstance(row, dict) or "task" not in row or "evaluation" in row:
        return row
    renamed = {"evaluation" if key == "task" else key: value for key, value in row.items()}
    return {**renamed, "lower_is_better": True} if row.get("metric") == "loss" else renamed


def _of_former_keys(task: object) -> object:
    """A task's settings as they are written now: ``evaluate_only`` was ``held_back``; read for one release."""
    if not isinstance(task, dict) or "held_back" not in task:
        return task
    return {"evaluate_only" if key == "held_back" else key: value for key, value in task.items()}


class Score(TypedDict):
    """One evaluation of a model: the mean of ``metric`` over ``n`` rows, with its standard error, and, where the rows
    offer the same choices, the share of the commonest answer: what always giving that one would score. ``also`` holds
    the means of the evaluation's other metrics. ``dropped`` rows were too long and are not among the ``n``, ``cut``
    ones lost the middle of their prompt; neither is there if 0. Nor is ``lower_is_better`` if it is false."""

    evaluation: str
    metric: str
    value: float
    stderr: float | None
    n: int
    lower_is_better: NotRequired[bool]
    majority: NotRequired[float]
    also: NotRequired[dict[str, float]]
    dropped: NotRequired[int]
    cut: NotRequired[int]


class TimedScore(Score):
    """A score during or after a training: at which ``step``, and the ``key`` of what was scored."""

    step: int
    key: str


class KeptScore(TimedScore):
    """A score that is kept with a stage; ``final``: of its finished model."""

    final: bool


class FinalScore(Score):
    """A score in a run's results; ``after`` is a stage's task, or ``base``."""

    after: str


class FileRecord(TypedDict):
    """A file of a stage."""

    bytes: int
    sha256: str


class Made(TypedDict):
    """When and with what a stage was made."""

    date: str
    hardware: str
    torch: str
    ranks: NotRequired[int]
    versions: NotRequired[dict[str, str]]


@with_config(OPEN)
class Spec(TypedDict):
    """What determines a stage's weights, as far as it is read again: of a base that is a folder, its files' hashes."""

    files: NotRequired[dict[str, str]]


class MergeRecord(TypedDict):
    """A merge during a training, see :class:`sfa.averager.Merge`."""

    step: int
    l2_before: float
    l2_after: float
    seconds: float


class Cost(TypedDict, total=False):
    """What a training or a merge took and did: ``steps`` alone of a base. Times are seconds."""

    steps: Required[int]
    merge_steps: list[int]
    merges: list[MergeRecord]
    l2_from_anchor: float
    seconds: float
    merge_seconds: float
    tokens: int
    peak_bytes: int
    stored_examples: int
    stored_bytes: int
    changed: dict[str, int]
    padded: str | None


class Asked(TypedDict, total=False):
    """How a run showed prompts, and what it did with long rows. ``system`` and ``date`` are there where they are not
    the defaults."""

    template: str
    system: str
    date: str
    seq_len: int
    long_rows: str


class Identity(TypedDict):
    """Which stage it is, and what it was made of and with."""

    fingerprint: str
    task: str
    method: str
    parent: str | None
    spec: Spec
    made: Made


class StageAbout(Identity, Cost, Asked):
    """What a manifest says of a stage before its files are sealed."""


class Files(TypedDict):
    """What is checked of a stage's files: each with its size and checksum."""

    files: dict[str, FileRecord]


@with_config(OPEN)
class Manifest(StageAbout, Files):
    """``manifest.json`` of a stage."""


class StageRecord(TypedDict):
    """A stage in a run's results."""

    task: str
    method: str
    fingerprint: Annotated[str, BeforeValidator(_fingerprint)]
    steps: int
    merge_steps: list[int]
    l2_from_anchor: float
    seconds: float
    tokens: int
    peak_bytes: int
    stored_examples: int


@with_config(OPEN)
class TaskRecord(TypedDict):
    """A task of a run's config, as far as it is read again."""

    name: str
    evals: list[str]
    evaluate_only: bool


@with_config(OPEN)
class EvalRecord(TypedDict):
    """The ``eval`` block of a run's config."""

    tasks: list[str] | None


@with_config(OPEN)
class ConfigRecord(TypedDict):
    """A run's config, as far as it is read again."""

    method: str
    tasks: list[Annotated[TaskRecord, BeforeValidator(_of_former_keys)]]
    eval: EvalRecord


class Metrics(TypedDict):
    """See :func:`sfa.stages.results.metrics`."""

    average: float
    forgetting: float
    backward_transfer: float


class Results(TypedDict):
    """``results.json`` of a run. ``metrics`` are ``None`` where a task has no score."""

    schema: NotRequired[int]
    name: str
    config: ConfigRecord
    seed: int
    stages: list[StageRecord]
    evaluations: list[Annotated[FinalScore, BeforeValidator(_of_schema_2)]]
    metrics: Metrics | None


class SweptRun(TypedDict):
    """A run that a sweep's file lists. ``point`` holds the overrides that ``label`` stands for."""

    label: str
    point: Overrides
    seed: int
    name: Annotated[str, BeforeValidator(_run_name)]
    order: NotRequired[list[int] | None]
    arguments: NotRequired[list[str]]


class Sweep(TypedDict):
    """``<sweep>.json``: the runs of a sweep."""

    sweep: str
    runs: list[SweptRun]


KeptScores = list[Annotated[KeptScore, BeforeValidator(_of_schema_2)]]
TimedScores = list[Annotated[TimedScore, BeforeValidator(_of_schema_2)]]


def checked(kind: type[Record], content: object, place: object, save_folder: Path = Path()) -> Record:
    """``content`` as a record.

    Args:
        kind: of the record.
        content: what JSON came to.
        place: what a message calls it.
        save_folder: that stages and runs lie in.

    Raises:
        Foreign: it is none; names what is missing in one line.
        DamagedStage: it names a stage or a run that could lead out of ``save_folder``.
    """
    try:
        found: Record = _adapter(cast(Any, kind)).validate_python(content, context={"save_folder": save_folder})
    except ValidationError as error:
        raise Foreign(_reason(error, place)) from error
    return found


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _reason(error: ValidationError, place: object) -> str:
    """All that is missing in one place, or else the first thing that is wrong."""
    errors = error.errors(include_url=False)
    lost = [e["loc"] for e in errors if e["type"] == "missing"]
    if not lost:
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        return f"{place}: {where}: {first['msg']}" if where else f"{place}: {first['msg']}"
    inside = lost[0][:-1]
    keys = ", ".join(str(loc[-1]) for loc in lost if loc[:-1] == inside)
    return f"{place}{': ' if inside else ''}{'.'.join(map(str, inside))} lacks {keys}"
