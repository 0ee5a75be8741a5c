"""The contents of the files of ``runs/``, as types that are validated on reading. :mod:`sfa.runs` reads and writes
them."""

import functools
import re
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, TypeVar, cast

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, with_config
from typing_extensions import TypedDict

from sfa.store import PLAIN_NAME, DamagedStage
from sfa.values import Overrides

GENERAL = "general/"  # prefix of an evaluation of the prior suite in a stage's scores
SCHEMA = 2  # of results.json; files of schema 1 do not state it, and call a score's evaluation its task

Record = TypeVar("Record")
OPEN = ConfigDict(extra="allow")  # records of other releases may have more keys


class InvalidRecord(ValueError):
    """Content that does not match its record type; the message says where."""


def fingerprint_of(value: object, save_folder: Path) -> str:
    """``value``, if it is the fingerprint of a stage.

    Raises:
        DamagedStage: it is not, and could lead to another folder.
    """
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{16}", value):
        raise DamagedStage(f"{value!r} is not the fingerprint of a stage: a file in {save_folder} was changed")
    return value


def run_name_of(value: object, save_folder: Path) -> str:
    """``value``, if it is a valid name of a run.

    Raises:
        DamagedStage: it is not a plain folder name, and could lead out of ``save_folder``.
    """
    if not isinstance(value, str) or not re.fullmatch(PLAIN_NAME, value) or "\n" in value:
        raise DamagedStage(f"{value!r} is not the name of a run: a file in {save_folder} was changed")
    return value


def _fingerprint(value: object, info: ValidationInfo) -> str:
    assert info.context is not None
    return fingerprint_of(value, info.context["save_folder"])


def _run_name(value: object, info: ValidationInfo) -> str:
    assert info.context is not None
    return run_name_of(value, info.context["save_folder"])


def _upgrade_score(row: object) -> object:
    """A score of schema 1 in schema 2. Schema 1 called the evaluation ``task``, and had no ``lower_is_better``; it is
    supported for one release."""
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
    """One evaluation of a model: the mean of ``metric`` over ``n`` rows, with its standard error, and, if all rows
    have the same choices, the score of always giving the most common answer. ``also`` holds the means of the
    evaluation's other metrics. ``dropped`` rows were too long and are not among the ``n``, ``cut`` rows lost the middle
    of their prompt; both are omitted if 0, and ``lower_is_better`` if false. ``outcomes`` says of each row whether it
    was right, see :mod:`sfa.outcomes`, if rows are either."""

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
    outcomes: NotRequired[str]


class TimedScore(Score):
    """A score during or after a training, with its ``step`` and the ``key`` of what was scored."""

    step: int
    key: str


class StoredScore(TimedScore):
    """A score stored with a stage; ``final``: of its finished model."""

    final: bool


class FinalScore(Score):
    """A score in a run's results; ``after`` is a stage's task, or ``base``."""

    after: str


class FileRecord(TypedDict):
    """A file of a stage."""

    bytes: int
    sha256: str


class Made(TypedDict):
    """When, where and with which packages a stage was made."""

    date: str
    hardware: str
    torch: str
    ranks: NotRequired[int]
    versions: NotRequired[dict[str, str]]


@with_config(OPEN)
class Spec(TypedDict):
    """The part of a stage's spec that is read again: the files' hashes of a base that is a folder."""

    files: NotRequired[dict[str, str]]


class MergeRecord(TypedDict):
    """A merge during a training, see :class:`sfa.averager.Merge`. Manifests of older releases lack ``beta``."""

    step: int
    l2_before: float
    l2_after: float
    beta: NotRequired[float]
    seconds: float


class Cost(TypedDict, total=False):
    """The cost and the events of a training or a merge; a base has only ``steps``. Times are in seconds."""

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


class InputSettings(TypedDict, total=False):
    """How a run formatted prompts and handled long rows. ``system`` and ``date`` are omitted at their
    defaults."""

    template: str
    system: str
    date: str
    seq_len: int
    long_rows: str


class Identity(TypedDict):
    """The identity of a stage: its inputs, and how it was made."""

    fingerprint: str
    task: str
    method: str
    parent: str | None
    spec: Spec
    made: Made


class StageDescription(Identity, Cost, InputSettings):
    """A manifest without the stage's files."""


class Files(TypedDict):
    """A stage's files, each with its size and checksum."""

    files: dict[str, FileRecord]


@with_config(OPEN)
class Manifest(StageDescription, Files):
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
    """The part of a task in a run's config that is read again."""

    name: str
    evals: list[str]
    evaluate_only: bool


@with_config(OPEN)
class EvalRecord(TypedDict):
    """The ``eval`` section of a run's config."""

    tasks: list[str] | None


@with_config(OPEN)
class ConfigRecord(TypedDict):
    """The part of a run's config that is read again."""

    method: str
    tasks: list[Annotated[TaskRecord, BeforeValidator(_of_former_keys)]]
    eval: EvalRecord


class Metrics(TypedDict):
    """See :func:`sfa.stages.results.metrics`."""

    average: float
    forgetting: float
    backward_transfer: float
    forward_transfer: NotRequired[float]
    new_task_score: NotRequired[float]
    gain_kept: NotRequired[float]


class Results(TypedDict):
    """``results.json`` of a run. ``metrics`` are ``None`` if a task has no score; ``general`` are the scores of the
    prior suite, which no metric counts; ``arguments`` are the config's file and overrides."""

    schema: NotRequired[int]
    name: str
    config: ConfigRecord
    seed: int
    stages: list[StageRecord]
    evaluations: list[Annotated[FinalScore, BeforeValidator(_upgrade_score)]]
    metrics: Metrics | None
    arguments: NotRequired[list[str]]
    general: NotRequired[list[FinalScore]]


class SweptRun(TypedDict):
    """A run in a sweep's file. ``label`` describes the overrides in ``point``."""

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


StoredScores = list[Annotated[StoredScore, BeforeValidator(_upgrade_score)]]
TimedScores = list[Annotated[TimedScore, BeforeValidator(_upgrade_score)]]


def checked(kind: type[Record], content: object, place: object, save_folder: Path = Path()) -> Record:
    """Validates ``content`` as a record.

    Args:
        kind: type of the record.
        content: parsed JSON.
        place: its name in messages.
        save_folder: folder of stages and runs.

    Raises:
        InvalidRecord: it is not such a record; names what is missing in one line.
        DamagedStage: it names a stage or a run that could lead out of ``save_folder``.
    """
    try:
        record: Record = _adapter(cast(Any, kind)).validate_python(content, context={"save_folder": save_folder})
    except ValidationError as error:
        raise InvalidRecord(_reason(error, place)) from error
    return record


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _reason(error: ValidationError, place: object) -> str:
    """All keys missing in one place, or otherwise the first error."""
    errors = error.errors(include_url=False)
    missing = [e["loc"] for e in errors if e["type"] == "missing"]
    if not missing:
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        return f"{place}: {where}: {first['msg']}" if where else f"{place}: {first['msg']}"
    inside = missing[0][:-1]
    keys = ", ".join(str(loc[-1]) for loc in missing if loc[:-1] == inside)
    return f"{place}{': ' if inside else ''}{'.'.join(map(str, inside))} lacks {keys}"
