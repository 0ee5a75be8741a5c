"""A bias-corrected exponential moving average of the weights under training as a Composer algorithm."""

from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from sfa.anchor import trained_shards
from sfa.trainers.origin import bare

Tensors = dict[str, Tensor]


class BEMA(Algorithm):
    """Averages the weights after every step, μ ← (1−b)·μ + b·θ, from μ = θ_0, the weights at the start, and sets θ to
    μ + a·(θ − θ_0) when the training ends, where b = (lag + multiplier·t)^−ema_power and a = (lag +
    multiplier·t)^−bias_power after step t (Block & Zhang, 2025, arXiv:2508.00180). It is TRL's ``BEMACallback`` with an
    update after every step, on the model under training.

    Each rank holds μ and θ_0 whole, and checkpoints contain them: for one process and DDP.

    Args:
        ema_power: κ; 0 keeps only the last weights.
        bias_power: η; the larger, the weaker the correction.
        lag: ρ, at least 1, an offset of the steps.
        multiplier: γ, more than 0, of the steps.
    """

    def __init__(self, ema_power: float = 0.5, bias_power: float = 0.2, lag: float = 10, multiplier: float = 1.0):
        self.ema_power, self.bias_power, self.lag, self.multiplier = ema_power, bias_power, lag, multiplier
        self._start: Tensors = {}
        self._average: Tensors = {}

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.FIT_START, Event.BATCH_END)

    @torch.no_grad()
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        shards = trained_shards(bare(state))
        if event == Event.FIT_START:
            at_start = {name: shard.clone() for name, shard in shards.items()}
            self._start = _beside(self._start, shards) or at_start  # loaded from a checkpoint, on CPU
            self._average = _beside(self._average, shards) or {name: shard.clone() for name, shard in at_start.items()}
            return
        age = self.lag + self.multiplier * state.timestamp.batch.value
        average, weights = list(self._average.values()), list(shards.values())
        torch._foreach_lerp_(average, weights, age**-self.ema_power)
        if state.max_duration is not None and state.timestamp >= state.max_duration:
            moved = torch._foreach_sub(weights, list(self._start.values()))
            torch._foreach_copy_(weights, average)
            torch._foreach_add_(weights, moved, alpha=age**-self.bias_power)

    def state_dict(self) -> dict[str, Any]:
        """Composer's own keys, θ_0 and μ, which are the same on all ranks."""
        return {**super().state_dict(), "start": dict(self._start), "average": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start, self._average = dict(state["start"]), dict(state["average"])


def _beside(tensors: Tensors, shards: Tensors) -> Tensors:
    """``tensors`` in the order and on the devices of ``shards``."""
    return {name: tensors[name].to(shard.device) for name, shard in shards.items()} if tensors else {}
