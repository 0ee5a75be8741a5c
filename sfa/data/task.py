"""What a task is: rows to train on, rows held out, and the evaluations that score it."""

import hashlib
import importlib.metadata
import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypedDict

from pydantic import ConfigDict, Field

from sfa.store import PLAIN_NAME
from sfa.values import Checked, Overrides, Spec

Split = Literal["train", "test"]
FileName = Annotated[  # a plain name, without path separators
    str,
    Field(
        pattern=PLAIN_NAME,
        max_length=200,
        description="only letters, digits and . _ -, as folders are named after it",
    ),
]


class Message(TypedDict):
    """A turn of a conversation."""

    role: str
    content: str


class Row(TypedDict):
    """One example. The model is trained on ``response`` given ``prompt`` in the model's template, or on every turn of
    the assistant in ``messages``, which end with ``response``; an evaluation may have it choose the response among
    ``choices``, insert a completion between the two halves of ``program`` and run it, or compare what it writes with
    the nearest of ``references``."""

    prompt: str
    response: str
    messages: NotRequired[list[Message]]
    choices: NotRequired[list[str]]
    program: NotRequired[list[str]]
    references: NotRequired[list[str]]


TASKS: dict[str, type["Task"]] = {}


class Task(Checked):
    """A data set to fine-tune on. A subclass whose ``name`` has a default registers itself; its fields are the options
    that a config may set, and they enter the fingerprint of everything trained on the task.

    Attributes:
        name: the task's name in a stream.
        evals: names of the evaluations that score it: files in ``eval/tasks``, or those it declares. A class provides
            the rows of its default evaluations and of all named ``<task>_…``.
        package: the installed package that provides the rows, if any.
        epoch_tokens: approximate tokens of an epoch, at four characters a token. Only for estimates.
        code_evals: those of its evaluations that run what the model writes, which a run must allow.
        train: overrides of the config's ``train`` section for this task.
        evaluate_only: evaluated like the others, but never trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    package: ClassVar[str] = ""
    epoch_tokens: ClassVar[float | None] = None
    code_evals: ClassVar[tuple[str, ...]] = ()

    name: FileName
    evals: tuple[str, ...] = Field((), description="evaluations that score it")
    train: Overrides = Field({}, description="overrides of the train section for this task")
    evaluate_only: bool = Field(False, description="evaluated, but never trained on")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if isinstance(cls.model_fields["name"].default, str):
            TASKS[cls.model_fields["name"].default] = cls

    @abstractmethod
    def rows(self, split: Split) -> Sequence[Any]:
        """The rows of a split, the same on every call: :class:`Row`, or images with labels for an
        :class:`sfa.data.images.ImageTask`. No row of ``test`` is in ``train``."""

    @classmethod
    def declares(cls, name: str) -> dict[str, str]:
        """The evaluations that a task of this class called ``name`` has without a file in ``eval/tasks``, each with
        the kind that scores it, a file in ``eval/kinds``."""
        return {f"{name}_loss": "loss"}

    def declared(self) -> dict[str, str]:
        """The evaluations that this task declares."""
        return self.declares(self.name)

    def task_file(self, evaluation: str) -> str:
        """The file in ``eval/tasks/declared`` by which a declared evaluation of the kind ``lm_eval`` is scored."""
        return "choices"

    def eval_rows(self, evaluation: str) -> Sequence[Any]:
        """The rows that one of the class's ``evals`` is scored on."""
        return self.rows("test")

    def data_spec(self) -> Spec:
        """What determines the rows."""
        options = self.model_dump(mode="json", exclude={"train", "evals", "evaluate_only"})
        return {**options, "version": importlib.metadata.version(self.package)} if self.package else options

    def eval_spec(self, evaluation: str) -> Spec:
        """What determines the rows of :meth:`eval_rows` and those of a loss evaluation."""
        return self.data_spec()


class GoneTask(Task):
    """A task that a finished run was trained on, and whose data do not exist any more. Its further fields are the
    options that it had."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def rows(self, split: Split) -> Sequence[Any]:
        raise LookupError(f"the data of {self.name} are gone")

    def declared(self) -> dict[str, str]:
        """None: there are no rows to score a model on."""
        return {}


class Lookup(TypedDict):
    """The validation context of a task."""

    data_folder: Path | None


def registered(name: str, data_folder: Path | None = None, **options: Any) -> Task:
    """A registered task with ``options``, otherwise with defaults; ``data_folder`` holds local copies of hub data sets,
    each in a folder named after the last part of its hub name."""
    return TASKS[name].model_validate(options, context=looking_in(data_folder))


def looking_in(data_folder: Path | None) -> Lookup:
    """The validation context in which a task looks up its data sets."""
    return {"data_folder": data_folder}


def data_folder_of(context: Any) -> Path | None:
    """The folder of local copies in a validation context; ``None`` if there is none."""
    return None if context is None else context["data_folder"]


def owner(evaluation: str) -> type[Task] | None:
    """The registered task that provides an evaluation's rows: the class lists it, or it is named ``<task>_…``."""
    declaring = (kind for kind in TASKS.values() if evaluation in kind.model_fields["evals"].default)
    return next(declaring, None) or TASKS.get(evaluation.rpartition("_")[0])


def runs_generated_code(evaluation: str) -> bool:
    """Whether an evaluation runs what the model writes."""
    task = owner(evaluation)
    return task is not None and evaluation in task.code_evals


def package_folder(module: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {module}, which provides this task's data, is not installed")
    return Path(spec.submodule_search_locations[0])


def held_out(text: str, share: int, of: int = 10) -> bool:
    """Whether ``text`` is held out, as ``share`` in ``of`` texts are, by its hash: the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % of < share
