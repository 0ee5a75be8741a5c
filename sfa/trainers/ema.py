"""Averages of the weights under training as Composer algorithms."""

from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from sfa.anchor import trained_shards
from sfa.trainers.origin import bare


class EMA(Algorithm):
    """Averages the weights after every step, μ ← s·μ + (1−s)·θ with s = 2^(−1/half_life), and sets θ to μ when the
    training ends. μ starts as θ after the first step. These are the formula and the start of Composer's own ``EMA``,
    of which this differs in three points: evaluations during the training score θ, checkpoints hold θ and μ, so that a
    resumed training is bitwise the same, and buffers are not averaged.

    Each rank holds μ whole: for one process and DDP.

    Args:
        half_life: steps after which the weights of a step count half.
    """

    def __init__(self, half_life: float):
        if half_life <= 0:
            raise ValueError(f"half_life must be more than 0 steps, not {half_life}")
        self.smoothing = 2 ** (-1 / half_life)
        self._average: dict[str, Tensor] = {}

    def match(self, event: Event, state: State) -> bool:
        return event == Event.BATCH_END

    @torch.no_grad()
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        shards = trained_shards(bare(state))
        if not self._average:
            self._average = {name: shard.clone() for name, shard in shards.items()}
        average = [self._average[name].to(shard.device) for name, shard in shards.items()]  # from a checkpoint on CPU
        self._average = dict(zip(shards, average, strict=True))
        torch._foreach_lerp_(average, list(shards.values()), 1 - self.smoothing)
        if state.max_duration is not None and state.timestamp >= state.max_duration:
            torch._foreach_copy_(list(shards.values()), average)

    def state_dict(self) -> dict[str, Any]:
        """Composer's own keys and μ, which is the same on all ranks."""
        return {**super().state_dict(), "average": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average = dict(state["average"])
