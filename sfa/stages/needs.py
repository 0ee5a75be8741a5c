"""The memory and disk that a run needs, from its number of parameters and its settings."""

from collections.abc import Iterable
from dataclasses import dataclass

from sfa.config.schema import Train
from sfa.models.outline import Outline

BFLOAT16 = 2
FLOAT32 = 4  # bytes of a weight, of a gradient, and of each number that an optimizer keeps for it
PROCESS = (
    900 * 2**20
)  # bytes of host memory of a process before it reads a model: Python, torch, Composer, transformers


@dataclass(frozen=True)
class Needs:
    """Bytes per trained parameter, over all ranks.

    Attributes:
        optimizer: of the optimizer's state.
        accumulates: whether a step adds up the gradients of several microbatches.
    """

    optimizer: int
    accumulates: bool = False

    @property
    def training(self) -> int:
        """Of weights, gradients and the optimizer's state."""
        return 2 * FLOAT32 + self.optimizer

    @property
    def checkpoints(self) -> int:
        """Of two checkpoints: the newest is complete before the one before it is deleted."""
        return 2 * (FLOAT32 + self.optimizer)

    def while_added(self, outline: Outline) -> int:
        """Bytes of gradients of the largest weight that live only until they are added: two uses of a shared weight and
        their sum, and a further microbatch's, are tensors beside the gradient."""
        copies = (2 if outline.is_shared else 0) + self.accumulates
        return FLOAT32 * copies * outline.largest


def gathered(outline: Outline, is_mixed: bool) -> int:
    """Bytes of a rank under FSDP2 beside its shards while gradients are computed: whole weights, their gradients, and
    the buffers by which a block comes and its gradient goes. The weights outside of blocks stay whole until the end,
    when the gradients of all of them are there. What gloo copies besides is not counted.

    Args:
        outline: of the model.
        is_mixed: whether FSDP2 gathers bfloat16 and adds up float32.
    """
    whole = BFLOAT16 if is_mixed else FLOAT32
    added = 2 * outline.largest if outline.is_shared else 0  # see Needs.while_added
    block = 3 * whole + FLOAT32  # weights, the next block's, gradients; and those that are being reduced
    at_the_end = whole * (outline.outside + added) + FLOAT32 * outline.block
    return whole * outline.outside + max(block * outline.block, at_the_end, FLOAT32 * outline.outside)


def needs_of(trains: Iterable[Train]) -> Needs:
    """Of the most demanding of several trainings; of weights and gradients alone if there is none."""
    trains = list(trains)
    return Needs(max(map(_optimizer_bytes, trains), default=0), any(map(_accumulates, trains)))


def optimizer_text(trains: Iterable[Train]) -> str:
    """What :func:`needs_of` counts besides weights and gradients, in words."""
    return "AdamW" if any(train.optimizer == "adamw" for train in trains) else "SGD"


def _accumulates(train: Train) -> bool:
    """On one rank; each of several has fewer examples a step."""
    return train.microbatch_size is not None and train.microbatch_size < train.global_batch_size


def _optimizer_bytes(train: Train) -> int:
    if train.optimizer == "adamw":
        return 2 * FLOAT32
    return FLOAT32 if train.momentum > 0 else 0
