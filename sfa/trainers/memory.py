"""Gradients on stored sequences of past tasks, by backward passes of their own after those of the batch."""

from collections.abc import Callable
from typing import Any

from composer.core import State, get_precision_context
from torch import Tensor

from sfa.data.memory import Memory, Place

Loss = Callable[[Tensor, dict[str, Tensor], list[Place]], Tensor]


def backward(state: State, memory: Memory, loss: Loss, which: int = 0) -> None:
    """Adds the gradients of ``loss`` on the step's draw from ``memory`` to those of the parameters. Call it at
    ``Event.AFTER_TRAIN_BATCH``, on all ranks, whose gradients are averaged as those of a batch are.

    Args:
        state: the fit's state.
        memory: the stored sequences.
        loss: of the model's output, a microbatch and its places in memory; the losses of microbatches are added up.
        which: see :meth:`sfa.data.memory.Memory.draw`.
    """
    size = state.device_train_microbatch_size
    assert isinstance(size, int), "the suite sets it"
    for places, items in memory.batches(int(state.timestamp.batch.value), size, which):
        batch: dict[str, Tensor] = state.device.batch_to_device(items)
        with get_precision_context(state.precision, state.precision_config):
            total = loss(state.model(batch), batch, places)
        total.backward()


def token_loss(model: Any) -> Loss:
    """The mean loss over the learned tokens of a draw."""

    def loss(outputs: Tensor, batch: dict[str, Tensor], places: list[Place]) -> Tensor:
        total: Tensor = (model.sequence_losses(outputs, batch) * batch["weight"]).sum()
        return total

    return loss
