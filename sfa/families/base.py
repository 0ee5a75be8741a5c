"""The interface of a model family, and how the family of a model or stream is determined.

Configs are validated without ``torch`` and ``transformers``, which take seconds to import: families import them inside
their methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from sfa.data import Task
from sfa.data.template import Layout
from sfa.values import Overrides, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfa.config.schema import Config, Train
    from sfa.data.batches import Transform
    from sfa.data.packing import Arrays, LongRows
    from sfa.models.settings import Model

FAMILIES: dict[str, type["Family"]] = {}


class WrongFamily(ValueError):
    """A model of a different family than the tasks require."""


@dataclass(frozen=True)
class Sequences:
    """How a language model's rows become sequences.

    Attributes:
        layout: how prompts are presented.
        seq_len: tokens of a sequence.
        long_rows: how longer rows are handled.
        packs: whether a sequence may hold several examples.
    """

    layout: Layout
    seq_len: int
    long_rows: "LongRows"
    packs: bool = True


class ArrayBuilder(Protocol):
    """Builds a model's input arrays from a task's rows."""

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list["Arrays"], dict[str, int]]:
        """The training rows of one task, or of several to mix, as one or several groups of arrays, read from the folder
        ``cache`` if built before; and the number of rows changed or left out, by kind of change (see
        :attr:`Family.changes`). Must be called on all ranks.

        Raises:
            SourceError: a task has no rows, or an invalid row.
        """
        ...

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, "Tensor"]]:
        """``count`` training rows of a task, drawn with a seed, each a batch of size one whose loss is the summed
        negative log-likelihood of its response or label. A decoder's may be padded at the end."""
        ...


class Family(ABC):
    """A kind of model: how it is built, its training data and loss, and its limitations. A subclass with a ``name``
    registers itself.

    Families of the same ``rows`` agree in all methods that depend only on the stream; the model's configuration
    decides between them: see :func:`family_of`.

    Attributes:
        name: name of the family.
        rows: the kind of data of its tasks: ``text`` or ``images``.
        description: what its models are, as in "is no language model".
        changes: message about rows that were changed or left out, by the keys of an :class:`ArrayBuilder`'s counts;
            ``{}`` is the longest sequence in tokens.
        further_options: configuration keys of an architecture that the family reads and ``transformers`` may not.
    """

    name: ClassVar[str]
    rows: ClassVar[str]
    description: ClassVar[str]
    changes: ClassVar[Mapping[str, str]]
    further_options: ClassVar[Collection[str]] = ()

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            FAMILIES[cls.name] = cls

    # For a stream; imports nothing heavy.

    @classmethod
    @abstractmethod
    def takes(cls, task: Task) -> bool:
        """Whether its models can be trained on the task's rows."""

    @classmethod
    @abstractmethod
    def of_tasks(cls, tasks: Sequence[Task]) -> Self:
        """The family instance for a stream of tasks that it takes."""

    @abstractmethod
    def config_errors(self, config: "Config") -> list[str]:
        """Errors in a run's config, without reading the model's configuration."""

    @abstractmethod
    def base_spec(self) -> Spec:
        """What the family adds to the specification of a stream's initial stage."""

    @abstractmethod
    def has_random_weights(self, model: "Model") -> bool:
        """Whether any weights of a new model are random."""

    @abstractmethod
    def batch_text(self, train: "Train") -> str:
        """Description of a global batch for a dry run."""

    @abstractmethod
    def amount_text(self, train: "Train", steps: int) -> str:
        """Description of the training data of ``steps`` steps for a dry run."""

    @abstractmethod
    def token_count(self, train: "Train", tasks: Sequence[Task]) -> float | None:
        """Approximate number of training tokens of a stage; ``None`` if unknown or not applicable."""

    def plan_notes(self, trains: Iterable["Train"]) -> list[str]:
        """Further lines of a dry run about the trainings."""
        return []

    # For a configuration of transformers.

    @classmethod
    @abstractmethod
    def classes(cls) -> Mapping[Any, Any]:
        """The mapping of ``transformers`` from configurations' types to the family's classes: one each, or several."""

    @classmethod
    def knows(cls, configuration: Any) -> bool:
        """Whether ``transformers`` has a class of this family for the configuration."""
        return type(configuration) in cls.classes()

    @classmethod
    @abstractmethod
    def refuse(cls, configuration: Any) -> None:
        """Raises a ValueError with the reason if the configuration belongs, or seems to belong, to the family but its
        models cannot be trained."""

    @classmethod
    @abstractmethod
    def of_configuration(cls, configuration: Any) -> Self:
        """The family instance for a model with this configuration, which the family knows."""

    @classmethod
    def model_class(cls, configuration: Any) -> Any:
        """The ``transformers`` class for a configuration that the family knows: of several, the one that the checkpoint
        was saved from, or else the first, as ``transformers`` itself chooses."""
        mapped = cls.classes()[type(configuration)]
        candidates = mapped if isinstance(mapped, list | tuple) else (mapped,)
        saved = configuration.architectures or []
        return next((kind for kind in candidates if kind.__name__ in saved), candidates[0])

    @abstractmethod
    def options(self, model: "Model", vocab_size: int | None) -> Overrides:
        """Options for the ``transformers`` configuration of a config's model: all of an architecture's, or overrides
        of a pretrained model's."""

    def configuration_errors(self, model: "Model", configuration: Any, seq_len: int) -> list[str]:
        """Errors in a model's configuration, as lines ``key: problem``; ``seq_len`` is the longest training sequence in
        tokens."""
        return []

    # For a model.

    @abstractmethod
    def build(self, model: "Model", tokenizer_tasks: Sequence[Task], report: Callable[[str], None]) -> tuple[Any, Any]:
        """See :func:`sfa.models.building.build`, which sets the random seed."""

    @abstractmethod
    def check(self, configuration: Any, processor: Any, layout: Layout, seq_len: int) -> None:
        """Checks a model and its tokenizer or image processor before the first training.

        Raises:
            ModelError: it cannot be trained with these settings.
        """

    def padding_reason(self, model: Any, processor: Any) -> str | None:
        """Why the model's sequences must hold a single example each, if other models of the family can pack several;
        else ``None``. Must be called on all ranks.

        Raises:
            ModelError: the model cannot be trained at all.
        """
        return None

    @abstractmethod
    def array_builder(self, processor: Any, configuration: Any, sequences: Sequences) -> ArrayBuilder:
        """The builder of input arrays for a model with this configuration and this tokenizer or image processor."""

    def transform(self, tasks: Sequence[Task], seed: int) -> "Transform | None":
        """A transform of every training example when it is read, such as augmentation."""
        return None

    @abstractmethod
    def logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """``[batch, length, vocab]`` for text, in training possibly ``[learned tokens, vocab]``; ``[batch, labels]``
        for images."""

    @abstractmethod
    def learned_logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """Logits of the learned tokens or images alone, in their order, ``[learned tokens, vocab]`` or ``[batch,
        labels]``, of a model in training or not."""

    @abstractmethod
    def only_learned(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        """Those of :meth:`logits` that :meth:`learned_logits` returns."""

    @abstractmethod
    def learned_counts(self, batch: dict[str, "Tensor"]) -> "Tensor":
        """The number of learned tokens of each sequence, or 1 for each image, ``[batch]``, int64."""

    @abstractmethod
    def losses(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        """The summed negative log-likelihood of each sequence's learned tokens or image's label, ``[batch]``,
        float32."""

    @abstractmethod
    def sample(self, logits: "Tensor", batch: dict[str, "Tensor"], generator: "torch.Generator") -> dict[str, "Tensor"]:
        """``batch`` with every learned token or label sampled from the model's prediction; ``logits`` must cover all
        positions."""


def family_of_tasks(tasks: Sequence[Task]) -> Family:
    """The family of a stream as determined by its tasks: the first that takes all of them.

    Raises:
        ValueError: no family takes all of the tasks.
    """
    families = list(FAMILIES.values())
    family_class = next((family for family in families if all(map(family.takes, tasks))), None)
    if family_class is None:
        kinds = sorted({family.rows for family in families for task in tasks if family.takes(task)})
        raise ValueError(f"{' and '.join(kinds)} cannot be in one stream")
    return family_class.of_tasks(tasks)


def family_of(configuration: Any, rows: str | None = None) -> Family:
    """The family of a model with this configuration of ``transformers``.

    Args:
        configuration: the model's configuration.
        rows: the stream's kind of rows; ``None``: any.

    Raises:
        WrongFamily: no family for such rows knows it.
        ValueError: it cannot be trained: it is quantized, or its family refuses it.
    """
    if getattr(configuration, "quantization_config", None) is not None:
        raise ValueError("it is quantized, and only unquantized weights can be trained and averaged")
    candidates = [family for family in FAMILIES.values() if rows in (None, family.rows)]
    known = [family for family in candidates if family.knows(configuration)]
    for family in known or candidates:
        family.refuse(configuration)
    if not known:
        required = " and ".join(f"no {kind}" for kind in dict.fromkeys(family.description for family in candidates))
        end = "that transformers knows" if rows is None else "and the tasks need one"
        raise WrongFamily(f"{configuration.model_type} is {required}{' ' if rows is None else ', '}{end}")
    return known[0].of_configuration(configuration)
