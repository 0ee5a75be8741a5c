"""Stops a fit with infinite values or NaNs, before they reach its weights or a checkpoint."""

import math

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from sfa.anchor import local
from sfa.errors import NotFinite
from sfa.finite import check
from sfa.trainers.origin import bare


class Finite(Algorithm):
    """Checks the loss and this rank's shards of the gradients in every step, between the backward passes and the
    optimizer. List it before gradient clipping, which would spread NaNs to all tensors.

    Raises:
        NotFinite: with the step and the tensor.
    """

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        gradients = {name: local(p.grad) for name, p in bare(state).named_parameters() if p.grad is not None}
        loss = float(state.loss) if isinstance(state.loss, Tensor) else 0.0
        where = f"step {int(state.timestamp.batch.value) + 1}: the loss is {loss:g}"
        check(gradients, f"{where}, and the gradient")
        if not math.isfinite(loss):
            raise NotFinite(where)
