"""What a method is: a block of the YAML, the stages that a stream needs, and what it adds to a training or a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfa.schedule import Clock
from sfa.values import Section

if TYPE_CHECKING:
    from composer.core import Algorithm
    from torch import Tensor

    from sfa.stages.plan import Stage, Stream

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Look:
    """How a method is drawn.

    Attributes:
        title: its name in figures; that of the YAML if empty.
        style: of lines and markers, as matplotlib takes them.
        bar: colour of its bars.
        in_bars: ``bar``; ``band``, a line across all bars; or ``star``, a mark beside them.
        is_subject: whether figures are about it: its line lies on top, and a panel is drawn for each of its keys.
    """

    title: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)
    bar: str = "0.6"
    in_bars: Literal["bar", "band", "star"] = "bar"
    is_subject: bool = False


@dataclass(frozen=True)
class Past:
    """A task that was trained before.

    Attributes:
        folder: of its stage, where what is known of the task may be kept.
        model: folder of the weights after it.
        is_parent: whether the training starts from these weights.
        examples: gives a number of the task's training examples as it was trained on them, one a batch.
    """

    folder: Path
    model: Path
    is_parent: bool
    examples: Callable[[int], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Fit:
    """A training that a method takes part in.

    Attributes:
        total: T, steps.
        epoch: steps of an epoch, perhaps not whole.
        seed: of the run.
        anchor: folder of the model that it starts from, whose weights are θ_o.
        past: tasks that were trained before, oldest first.
    """

    total: int
    epoch: Fraction
    seed: int
    anchor: Path
    past: Sequence[Past] = ()


@dataclass(frozen=True)
class Replay:
    """Past tasks' sequences in every batch: the share of them, and how many of each task are kept (``None``: all)."""

    fraction: float
    buffer: int | None


@dataclass(frozen=True)
class FisherSettings:
    """How the Fisher information of a task is taken: over how many examples, and with whose labels."""

    examples: int
    labels: Literal["empirical", "sampled"]


class Method(Section):
    """A method. A subclass with a ``name`` registers itself; its fields are its block of the YAML, with hints and
    defaults, and all but ``WITHOUT_EFFECT`` are part of the fingerprint of what it trains or merges.

    Attributes:
        name: that a config's ``method`` and the block are called.
        merge_name: that its merge of models is called, in fingerprints and by ``scripts.merge``; empty: it has none.
        merge_count: how many models a merge takes; ``None``: any number.
        merges_from: whether a merge measures the models from the one that all were trained from.
        draws: whether a merge draws random numbers, so that the run's seed determines its weights.
        stage_labels: labels of its stages that are no task's.
        acts_on_one_task: whether it does something where a stream trains one task alone.
        ignores_order: whether the order of a stream's tasks is nothing to it.
        holds_anchor: whether θ_o is kept beside the weights while it trains.
        neutral: a setting, key and value, with which it is sequential training.
        headline: the key that titles of figures name; empty: none.
        look: how it is drawn.
    """

    name: ClassVar[str] = ""
    merge_name: ClassVar[str] = ""
    merge_count: ClassVar[int | None] = None
    merges_from: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    stage_labels: ClassVar[tuple[str, ...]] = ()
    acts_on_one_task: ClassVar[bool] = False
    ignores_order: ClassVar[bool] = False
    holds_anchor: ClassVar[bool] = False
    neutral: ClassVar[tuple[str, Any] | None] = None
    headline: ClassVar[str] = ""
    look: ClassVar[Look] = Look()

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"anchor_device"})  # fields that do not determine weights

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "name" in cls.__dict__:
            METHODS[cls.name] = cls

    # -- the plan ------------------------------------------------------------------------------------------------

    def stages(self, stream: Stream) -> list[Stage]:
        """The stages of a run that are evaluated, in order: the base, then one for each task of the stream. As it
        stands, each task is trained from the model before. The first has nothing to forget, so it is trained alike
        under every method."""
        stages = [stream.base]
        for i, task in enumerate(stream.tasks):
            own = self if i else method("sequential")
            stages.append(stream.train([task], own, stages[-1], stages[1:]))
        return stages

    def weights_spec(self) -> dict[str, Any]:
        """What of the block determines weights."""
        return self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT))

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        """What is wrong with the block for a stream: lines of a config's error, ``key: what``.

        Args:
            tasks: names of those that are trained.
            steps: of each one's training, where they are known before the data are read.
        """
        return []

    def idle_reason(self, tasks: Sequence[str]) -> str | None:
        """Why it would leave every model as sequential training makes it, or ``None`` if it would not."""
        if len(tasks) > 1 or self.acts_on_one_task:
            return None
        return (
            f"{self.name} acts from the second trained task on, and this stream trains {tasks[0]} alone: list "
            "the task that the model was tuned on before it, or train with method=sequential and average with the "
            "tuned model afterwards (python -m scripts.merge average)"
        )

    def neutral_setting(self) -> str | None:
        """The setting, as ``key=value``, with which it is sequential training, or ``None``. Such a run is the end of a
        sweep's scale, so it is carried out, and says so."""
        if self.neutral is None or getattr(self, self.neutral[0]) != self.neutral[1]:
            return None
        return f"{self.name}.{self.neutral[0]}={self.neutral[1]}"

    # -- while training ------------------------------------------------------------------------------------------

    def algorithms(self, fit: Fit) -> list[Algorithm]:
        """Composer algorithms, to be listed before gradient clipping."""
        return []

    def replay(self) -> Replay | None:
        """Past tasks' rows that are mixed in."""
        return None

    def clock(self, total: int, epoch: Fraction) -> Clock | None:
        """When it merges while training, in steps; ``None``: never, or it is not known before."""
        return None

    def describe_merges(self, total: int | None) -> str:
        """When it merges, in words; of a training of ``total`` steps, if that is known."""
        return "no merges"

    def step_error(self, total: int) -> str | None:
        """What is wrong with the block for a training of ``total`` steps: a line of a config's error."""
        return None

    # -- merging -------------------------------------------------------------------------------------------------

    def fisher_settings(self) -> FisherSettings | None:
        """Of each model, if a merge needs its Fisher information."""
        return None

    def merge(self, sources: Sources, out: Path) -> list[str]:
        """Merges models from folder to folder.

        Returns:
            Sentences on what could not be compared.

        Raises:
            ValueError: the models differ in more than weights, or a setting is out of range.
            OSError: a file is missing, or cannot be written.
        """
        raise NotImplementedError(f"{self.name} has a merge_name and no merge")


@dataclass(frozen=True)
class Sources:
    """What is merged.

    Attributes:
        models: folders, in the order of the stream.
        base: folder of the model that all were trained from, where the method measures from it.
        fishers: folders of each model's Fisher information, where the method needs it.
        seed: of what a merge draws.
    """

    models: Sequence[Path]
    base: Path | None = None
    fishers: Sequence[Path] = ()
    seed: int = 0


def method(name: str, **options: Any) -> Method:
    """A registered method, with its defaults but for ``options``."""
    return METHODS[name](**options)
