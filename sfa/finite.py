"""Stops a stage whose numbers have gone wrong, before they reach its weights or a checkpoint."""

import math
from collections.abc import Mapping

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfa.anchor import local
from sfa.errors import NotFinite


def check(tensors: Mapping[str, Tensor], what: str) -> None:
    """Looks at all tensors with one transfer from the device.

    Args:
        tensors: by name.
        what: they are, for the message.

    Raises:
        NotFinite: names the first that holds an infinite value or a NaN.
    """
    named = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    if not named:
        return
    largest = torch._foreach_norm(list(named.values()), float("inf"))
    wrong = ~torch.isfinite(torch.stack([one.float() for one in largest]))
    if bool(wrong.any()):
        name = list(named)[int(wrong.nonzero()[0])]
        raise NotFinite(f"the {what} of {name} is not finite")


class Finite(Algorithm):
    """Looks at the loss and at this rank's shards of the gradients after the backward passes of every step, before the
    optimizer's. List it before gradient clipping, which would spread what is wrong over all tensors.

    Raises:
        NotFinite: names the step and the tensor.
    """

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        module: nn.Module = state.model.module if isinstance(state.model, DistributedDataParallel) else state.model
        gradients = {name: local(p.grad) for name, p in module.named_parameters() if p.grad is not None}
        loss = float(state.loss) if isinstance(state.loss, Tensor) else 0.0
        where = f"step {int(state.timestamp.batch.value) + 1}: the loss is {loss:g}"
        check(gradients, f"{where}, and the gradient")
        if not math.isfinite(loss):
            raise NotFinite(where)
