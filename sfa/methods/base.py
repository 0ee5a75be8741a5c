"""What a method is: its settings in the YAML, the stages it plans, and what it adds to a training or a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfa.schedule import Clock
from sfa.values import Section, Spec

if TYPE_CHECKING:
    from composer.core import Algorithm
    from torch import Tensor

    from sfa.config.schema import Train
    from sfa.data import Task
    from sfa.data.memory import Memory
    from sfa.data.template import Layout
    from sfa.families import Family
    from sfa.stages.plan import Stage, Stream

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Look:
    """How a method appears in figures: in all of them with the same colour, dash and marker, which no other method of
    the suite has.

    Attributes:
        title: its name in figures; if empty, its name in the YAML.
        style: line and marker properties for matplotlib.
        in_bars: ``bar``; ``band``, a line across all bars; or ``star``, a marker next to them.
        is_subject: whether it is the subject of figures: its line is drawn on top, with one panel per setting.
    """

    title: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)
    in_bars: Literal["bar", "band", "star"] = "bar"
    is_subject: bool = False

    @property
    def colour(self) -> str:
        """The colour of its line, its bars and its labels; that of the edge, if its marker is hollow."""
        return str(self.style.get("markeredgecolor", self.style.get("color", "0.4")))

    @property
    def dash(self) -> str:
        """The dash of its line, for matplotlib; that of its curves over steps, if its points are not joined."""
        dash = str(self.style.get("linestyle", "-"))
        return "-" if dash == "none" else dash

    @property
    def marker(self) -> str:
        return str(self.style.get("marker", "o"))

    @property
    def is_hollow(self) -> bool:
        """Whether its marker is a white shape with a coloured edge."""
        return self.style.get("color") == "white"


@dataclass(frozen=True)
class Past:
    """A previously trained task.

    Attributes:
        folder: folder of its stage; data about the task may be cached there.
        model: folder of the weights after it.
        is_parent: whether the current training starts from these weights.
        examples: returns a number of the task's training examples, as they were trained on, in batches of one.
    """

    folder: Path
    model: Path
    is_parent: bool
    examples: Callable[[int], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Start:
    """What a training starts with, before its data are built.

    Attributes:
        model: the model that it starts from, on CPU.
        processor: its tokenizer or image processor.
        family: its family.
        layout: how prompts are presented.
        train: the training's settings.
        is_bf16: whether it computes in bfloat16.
        seed: seed of the run.
        folder: folder of its stage.
        report: prints a line for the user.
    """

    model: Any
    processor: Any
    family: Family
    layout: Layout
    train: Train
    is_bf16: bool
    seed: int
    folder: Path
    report: Callable[[str], None]


@dataclass(frozen=True)
class Fit:
    """A training that a method takes part in.

    Attributes:
        total: T, the number of steps.
        epoch: steps per epoch, possibly fractional.
        seed: seed of the run.
        anchor: folder of the model that it starts from, whose weights are θ_o.
        past: previously trained tasks, oldest first.
        memory: the stored sequences of past tasks, if the method has a :meth:`Method.replay`.
        report: prints a line for the user.
    """

    total: int
    epoch: Fraction
    seed: int
    anchor: Path
    past: Sequence[Past] = ()
    memory: Memory | None = None
    report: Callable[[str], None] = print


@dataclass(frozen=True)
class Replay:
    """Storage of past tasks: their share of every batch (0: they are only stored, for the method's algorithms), and how
    many sequences are stored per task (``None``: all)."""

    fraction: float
    buffer: int | None


@dataclass(frozen=True)
class FisherSettings:
    """How Fisher information is estimated: from how many examples, and with which labels."""

    examples: int
    labels: Literal["empirical", "sampled"]


class Method(Section):
    """A method. A subclass with a ``name`` registers itself; its fields are its settings in the YAML, with hints
    and defaults, and all but ``WITHOUT_EFFECT`` are part of the fingerprint of what it trains or merges.

    Attributes:
        name: its name as a config's ``method``, and the key of its settings.
        rows: the kinds of data that it can be trained on, see :attr:`sfa.families.Family.rows`.
        merge_name: name of its merge, in fingerprints and in ``scripts.merge``; empty: it has none.
        merge_count: how many models a merge takes; ``None``: any number.
        merges_from: whether a merge takes differences from the base that all models were trained from.
        draws: whether a merge draws random numbers, so that its weights depend on the run's seed.
        stage_labels: labels of its stages that are not task names.
        is_plain: whether it is fine-tuning without any intervention, see :func:`plain_method`.
        acts_on_one_task: whether it has an effect on a stream with a single trained task.
        needs_past_data: whether it needs examples or adapters of past tasks, so that it cannot act on a model that was
            tuned elsewhere.
        ignores_order: whether its result is independent of the order of the tasks.
        holds_anchor: whether θ_o is held in memory during training.
        neutral: a setting, as key and value, that makes it equivalent to sequential training.
        undoing: a setting, as key and value, with which the weights stay as they were before a task that it acts on.
        headline: the setting shown in figure titles; empty: none.
        look: how it appears in figures.
    """

    name: ClassVar[str] = ""
    rows: ClassVar[tuple[str, ...]] = ("text", "images")
    merge_name: ClassVar[str] = ""
    merge_count: ClassVar[int | None] = None
    merges_from: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    stage_labels: ClassVar[tuple[str, ...]] = ()
    is_plain: ClassVar[bool] = False
    acts_on_one_task: ClassVar[bool] = False
    needs_past_data: ClassVar[bool] = False
    ignores_order: ClassVar[bool] = False
    holds_anchor: ClassVar[bool] = False
    neutral: ClassVar[tuple[str, Any] | None] = None
    undoing: ClassVar[tuple[str, Any] | None] = None
    headline: ClassVar[str] = ""
    look: ClassVar[Look] = Look()

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"anchor_device"})  # fields that do not determine weights

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "name" in cls.__dict__:
            METHODS[cls.name] = cls

    # -- the plan ------------------------------------------------------------------------------------------------

    def stages(self, stream: Stream) -> list[Stage]:
        """The evaluated stages of a run, in order: the given ones, then one per task of the stream. By default each
        task is trained from the previous model. Without a model that was tuned before, the first task has nothing to
        forget, so every method trains it sequentially."""
        stages = list(stream.given)
        for i, task in enumerate(stream.tasks):
            trainer = self if i or (stream.has_anchor and not self.needs_past_data) else plain_method()
            stages.append(stream.train([task], trainer, stages[-1], stream.past(stages)))
        return stages

    @property
    def is_balanced(self) -> bool:
        """Whether a training on several tasks takes as many sequences of each, whatever their numbers of rows."""
        return False

    def weights_spec(self) -> Spec:
        """The settings that determine weights."""
        return self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT))

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        """Errors in the settings for a stream, one line each: ``key: message``.

        Args:
            tasks: names of the trained tasks, after that of the tuned model, if the stream starts from one.
            steps: training steps of each task, or ``None`` where they depend on the data.
        """
        return []

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        """Errors in the settings for a model with or without adapters, whole or sharded, one line each."""
        return []

    def idle_reason(self, tasks: Sequence[str]) -> str | None:
        """Why its models would equal those of sequential training on this stream; ``None`` if they would not. ``tasks``
        as for :meth:`errors`."""
        if len(tasks) > 1 or self.acts_on_one_task:
            return None
        tuned = "" if self.needs_past_data else ", or set model.base to the model that model.name was tuned from"
        return (
            f"{self.name} acts from the second trained task on, and this stream trains only {tasks[0]}: list "
            f"the task that the model was tuned on before it{tuned}, or use method={plain_method().name}"
        )

    def neutral_notice(self) -> str | None:
        """A notice that a setting makes it equivalent to sequential training, or to none, or ``None``. Such a run is a
        valid end point of a sweep, so it is allowed."""
        if self.neutral is not None and getattr(self, self.neutral[0]) == self.neutral[1]:
            setting = f"{self.name}.{self.neutral[0]}={self.neutral[1]}"
            return f"{setting} leaves the weights as method={plain_method().name} makes them"
        if self.undoing is not None and getattr(self, self.undoing[0]) == self.undoing[1]:
            setting = f"{self.name}.{self.undoing[0]}={self.undoing[1]}"
            return f"{setting} leaves the weights as they were before each task that it acts on"
        return None

    # -- while training ------------------------------------------------------------------------------------------

    def algorithms(self, fit: Fit) -> list[Algorithm]:
        """Composer algorithms, to run before gradient clipping."""
        return []

    def prepared(self, tasks: Sequence[Task], start: Start) -> Sequence[Task]:
        """The tasks as they are trained on, by default as they are. All ranks call it."""
        return tasks

    def tuned(self, model: Any, fit: Fit) -> Any:
        """The model as it is trained: ``model`` itself, or with what is trained in its place. The same on all ranks,
        and when a training resumes."""
        return model

    def plain(self, model: Any, folder: Path) -> Any:
        """What :meth:`tuned` returned, after the training, as a model like the one that it was given. All ranks call
        it; rank 0 may write what later stages need to the stage's ``folder``, see :attr:`Past.folder`."""
        return model

    def replay(self) -> Replay | None:
        """Settings of replay, or ``None`` if past tasks are not replayed."""
        return None

    def clock(self, total: int, epoch: Fraction) -> Clock | None:
        """The steps at which it merges during training; ``None``: never, or not known in advance."""
        return None

    def describe_merges(self, total: int | None) -> str:
        """Describes when it merges in a training of ``total`` steps, if that is known."""
        return "no merges"

    def step_error(self, total: int) -> str | None:
        """The error in the settings for a training of ``total`` steps, as ``key: message``, or ``None``."""
        return None

    def sequence_error(self, count: int) -> str | None:
        """The error in the settings for a training on ``count`` sequences, as ``key: message``, or ``None``."""
        return None

    # -- merging -------------------------------------------------------------------------------------------------

    def fisher_settings(self) -> FisherSettings | None:
        """How to estimate each model's Fisher information, or ``None`` if the merge does not need it."""
        return None

    def merge(self, sources: Sources, out: Path) -> list[str]:
        """Merges models from folder to folder.

        Returns:
            Notes on what could not be compared.

        Raises:
            ValueError: the models differ in more than weights, or a setting is out of range.
            OSError: a file is missing, or cannot be written.
        """
        raise NotImplementedError(f"{self.name} has a merge_name but does not implement merge")


@dataclass(frozen=True)
class Sources:
    """The inputs of a merge.

    Attributes:
        models: folders of the models, in the order of the stream.
        base: folder of the model that all were trained from, if the method needs it.
        fishers: folders of each model's Fisher information, if the method needs it.
        seed: seed of random numbers.
    """

    models: Sequence[Path]
    base: Path | None = None
    fishers: Sequence[Path] = ()
    seed: int = 0


def plain_method() -> Method:
    """Fine-tuning without any intervention: the default, and what other methods build on and are compared with."""
    return next(kind for kind in METHODS.values() if kind.is_plain)()
