"""Averaged gradient episodic memory (A-GEM) as a Composer algorithm."""

from collections.abc import Sequence

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from sfa.anchor import local, sum_over_ranks
from sfa.data.memory import Memory
from sfa.trainers.memory import backward, token_loss
from sfa.trainers.origin import bare


class AGEM(Algorithm):
    """Removes from every step's gradient g what would increase the loss on stored sequences of past tasks: with their
    gradient g_ref, g ← g − (gᵀg_ref / g_refᵀg_ref)·g_ref if gᵀg_ref < 0 (Chaudhry et al., 2019, eq. 11). It works after
    the backward passes and before clipping and the optimizer's step: list it before gradient clipping.

    Each rank works on its own shards, so one process, DDP and FSDP2 behave alike.

    Args:
        memory: the stored sequences.
    """

    def __init__(self, memory: Memory):
        self.memory = memory

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        module = bare(state)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients = _taken(trained)
        backward(state, self.memory, token_loss(module))
        references = _taken(trained)
        _project(module, gradients, references)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient


def _taken(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients, zero where there is none, which are removed from the parameters."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


@torch.no_grad()
def _project(module: nn.Module, gradients: Sequence[Tensor], references: Sequence[Tensor]) -> None:
    """Projects ``gradients`` in place."""
    pairs = [(local(gradient), local(reference)) for gradient, reference in zip(gradients, references, strict=True)]
    product = sum_over_ranks(module, sum(_dot(gradient, reference) for gradient, reference in pairs))
    if product < 0:
        square = sum_over_ranks(module, sum(_dot(reference, reference) for _, reference in pairs))
        for gradient, reference in pairs:
            gradient.sub_(reference, alpha=product / square)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())
