"""O-LoRA's penalty as a Composer algorithm: a new adapter's subspace is kept orthogonal to those of past adapters."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from sfa.trainers.origin import bare


def add_gradient(strength: float, gradient: Tensor, a: Tensor, past: Tensor) -> None:
    """Adds the gradient of λ·Σ|A·A_pᵀ|, which is λ·sign(A·A_pᵀ)·A_p, in place.

    Args:
        strength: λ.
        gradient: of A, ``[r, in]``.
        a: A, ``[r, in]``.
        past: A_p, the rows of all past tasks' factors, ``[n, in]``.
    """
    gradient.addmm_((a @ past.T).sign(), past, alpha=strength)


class Orthogonality(Algorithm):
    """Adds λ·Σ_i Σ|A·A_iᵀ| over all adapted modules and past tasks i to the loss (Wang et al., 2023, as their
    code has it): its gradient, between the backward passes and clipping. List it before gradient clipping. For one
    process and DDP.

    Args:
        strength: λ.
        past: of each past task, its factors A by their names as parameters of the model.
    """

    def __init__(self, strength: float, past: Sequence[Mapping[str, Tensor]]):
        self.strength = strength
        self._past = {name: torch.cat([factors[name] for factors in past]) for name in (past[0] if past else ())}

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    @torch.no_grad()
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        module: Any = bare(state)
        parameters = dict(module.model.named_parameters())
        for name in self._past:
            a = parameters[name]
            past = self._past[name] = self._past[name].to(a.device)
            assert a.grad is not None, "every factor enters the loss"
            add_gradient(self.strength, a.grad, a, past)
