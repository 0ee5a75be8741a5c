"""What a model family has to know, and how the family of a model or of a stream is found.

Configs are checked without ``torch`` and ``transformers``, which take seconds to import: families import them inside
their methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from sfa.data import Task
from sfa.data.template import Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfa.config.schema import Config, Train
    from sfa.data.batches import Transform
    from sfa.data.packing import Arrays, LongRows
    from sfa.families.settings import Model

FAMILIES: dict[str, type["Family"]] = {}


class WrongFamily(ValueError):
    """A model that is of another family than the tasks need."""


class ArrayBuilder(Protocol):
    """Builds the arrays that a model takes from a task's rows."""

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list["Arrays"], dict[str, int]]:
        """The training rows of one task, or of several to be mixed, in one part or several, read from the folder
        ``cache`` if they were built before; and how many rows were changed or left out, by what was done with them
        (see :attr:`Family.changes`). All ranks call it.

        Raises:
            SourceError: a task has no rows, or one of them cannot be used.
        """
        ...

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, "Tensor"]]:
        """``count`` training rows of a task, drawn with a seed, each a batch of one whose loss is the summed negative
        log-likelihood of its response or label. A decoder's may be padded at their end."""
        ...


class Family(ABC):
    """A kind of model: how it is built, what it is trained on and with which loss, and what it cannot do. A subclass
    with a ``name`` registers itself.

    Families that take the same rows (``rows``) give the same answers to all that is asked of a stream alone; which of
    them it is shows in the configuration of the model: see :func:`family_of`.

    Attributes:
        name: of the family.
        rows: what its tasks consist of: ``text`` or ``images``.
        description: of its models, as in "is no language model".
        changes: what is printed of rows that are not used as they are, by the keys of an :class:`ArrayBuilder`'s
            counts; ``{}`` is the longest sequence in tokens.
        further_options: keys of an architecture's configuration that the family reads and ``transformers`` may not.
    """

    name: ClassVar[str]
    rows: ClassVar[str]
    description: ClassVar[str]
    changes: ClassVar[Mapping[str, str]]
    further_options: ClassVar[Collection[str]] = ()

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            FAMILIES[cls.name] = cls

    # Of a stream: light.

    @classmethod
    @abstractmethod
    def takes(cls, task: Task) -> bool:
        """Whether its models are trained on the rows of such a task."""

    @classmethod
    @abstractmethod
    def of_tasks(cls, tasks: Sequence[Task]) -> Self:
        """The family as a stream of tasks that it takes needs it."""

    @abstractmethod
    def config_errors(self, config: "Config") -> list[str]:
        """What is wrong with a run's config, without a look at the configuration of its model."""

    @abstractmethod
    def base_spec(self) -> dict[str, Any]:
        """What the family adds to the specification of the stage that a stream starts from."""

    @abstractmethod
    def has_random_weights(self, model: "Model") -> bool:
        """Whether weights of a new model are drawn at random, all or some."""

    @abstractmethod
    def batch_text(self, train: "Train") -> str:
        """A global batch in the words of a dry run."""

    @abstractmethod
    def amount_text(self, train: "Train", steps: int) -> str:
        """What a number of steps trains on, in the words of a dry run."""

    @abstractmethod
    def token_count(self, train: "Train", tasks: Sequence[Task]) -> float | None:
        """Tokens that a stage trains on, roughly; ``None`` if they are not known or there are none."""

    def plan_notes(self, trains: Iterable["Train"]) -> list[str]:
        """Further lines of a dry run about its trainings."""
        return []

    # Of a configuration of transformers.

    @classmethod
    @abstractmethod
    def knows(cls, configuration: Any) -> bool:
        """Whether ``transformers`` has a class of this family for the configuration."""

    @classmethod
    @abstractmethod
    def refuse(cls, configuration: Any) -> None:
        """Raises a ValueError, with the reason, for a configuration that the family has a class for, or is taken to be
        of it, and whose models cannot be trained."""

    @classmethod
    @abstractmethod
    def of_configuration(cls, configuration: Any) -> Self:
        """The family as a model with this configuration, which it knows, has it."""

    @classmethod
    @abstractmethod
    def model_class(cls, configuration: Any) -> Any:
        """The class in ``transformers`` of a configuration that the family knows."""

    @abstractmethod
    def options(self, model: "Model", vocab_size: int | None) -> dict[str, Any]:
        """Options of the ``transformers`` configuration of a config's model: all of an architecture's, and those that
        replace a pretrained model's own."""

    def configuration_errors(self, model: "Model", configuration: Any, seq_len: int) -> list[str]:
        """What is wrong with a model's configuration as lines of a config's error, ``key: what``; ``seq_len`` is the
        longest sequence that it is to be trained on, in tokens."""
        return []

    # Of a model.

    @abstractmethod
    def build(self, model: "Model", tokenizer_tasks: Sequence[Task], tell: Callable[[str], None]) -> tuple[Any, Any]:
        """See :func:`sfa.families.models.build`, which seeds what is random."""

    @abstractmethod
    def check(self, configuration: Any, processor: Any, layout: Layout, seq_len: int) -> None:
        """Checks a model and its tokenizer or image processor before the first training.

        Raises:
            ModelError: it cannot be trained as it is asked to.
        """

    def why_padded(self, model: Any, processor: Any) -> str | None:
        """Why the model's sequences must hold one example each, where others of the family take several; else
        ``None``. All ranks call it.

        Raises:
            ModelError: the model cannot be trained at all.
        """
        return None

    @abstractmethod
    def array_builder(
        self,
        processor: Any,
        configuration: Any,
        layout: Layout,
        seq_len: int,
        long_rows: "LongRows",
        packs: bool = True,
    ) -> ArrayBuilder:
        """Builds the arrays that a model with this configuration takes.

        Args:
            processor: the tokenizer or image processor.
            configuration: of the model.
            layout: how prompts are shown.
            seq_len: tokens of a sequence.
            long_rows: what is done with longer rows.
            packs: whether a sequence may hold several examples.
        """

    def transform(self, tasks: Sequence[Task], seed: int) -> "Transform | None":
        """What is done to every training example when it is read, such as augmentation."""
        return None

    @abstractmethod
    def logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """``[batch, length, vocab]`` of text, in training perhaps ``[learned tokens, vocab]``; ``[batch, labels]`` of
        images."""

    @abstractmethod
    def losses(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        """The summed negative log-likelihood of what is learned of each sequence or image, ``[batch]``, float32."""

    @abstractmethod
    def sample(self, logits: "Tensor", batch: dict[str, "Tensor"], generator: "torch.Generator") -> dict[str, "Tensor"]:
        """``batch`` with every learned token or label drawn from the model's own prediction of it; ``logits`` are those
        of all positions."""


def family_of_tasks(tasks: Sequence[Task]) -> Family:
    """The family that a stream is for, as far as its tasks tell: of several that take its rows, the first.

    Raises:
        ValueError: no family takes all of the tasks.
    """
    families = list(FAMILIES.values())
    found = next((family for family in families if all(map(family.takes, tasks))), None)
    if found is None:
        kinds = sorted({family.rows for family in families for task in tasks if family.takes(task)})
        raise ValueError(f"{' and '.join(kinds)} cannot be in one stream")
    return found.of_tasks(tasks)


def family_of(configuration: Any, rows: str | None = None) -> Family:
    """The family of a model with this configuration of ``transformers``.

    Args:
        configuration: of the model.
        rows: of the stream that it is for; ``None``: any.

    Raises:
        WrongFamily: no family knows it, or none that takes such rows.
        ValueError: it cannot be trained: quantized, or for a reason of its family.
    """
    if getattr(configuration, "quantization_config", None) is not None:
        raise ValueError("it is quantized, and only plain weights can be trained and averaged")
    candidates = [family for family in FAMILIES.values() if rows in (None, family.rows)]
    known = [family for family in candidates if family.knows(configuration)]
    for family in known or candidates:
        family.refuse(configuration)
    if not known:
        wanted = " and ".join(f"no {kind}" for kind in dict.fromkeys(family.description for family in candidates))
        end = "that transformers knows" if rows is None else "and the tasks need one"
        raise WrongFamily(f"{configuration.model_type} is {wanted}{' ' if rows is None else ', '}{end}")
    return known[0].of_configuration(configuration)


def model_class(mapping: Any, configuration: Any) -> Any:
    """The class that one of the mappings of ``transformers`` has for a configuration: of several the one that the
    checkpoint was saved from, or else the first, as ``transformers`` itself chooses."""
    found = mapping[type(configuration)]
    several = found if isinstance(found, list | tuple) else (found,)
    return next((kind for kind in several if kind.__name__ in (configuration.architectures or [])), several[0])
