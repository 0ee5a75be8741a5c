"""Distillation from the model before the task (learning without forgetting) as a Composer algorithm."""

from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, Event, State, get_precision_context
from composer.loggers import Logger
from torch import Tensor

from sfa.models.stored import read_model
from sfa.trainers.origin import bare


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)) of each row (Hinton et al., 2015), ``[n]``, float32; the logits
    are ``[n, vocab]``. T² keeps the size of the gradient when T changes."""
    log_p, log_q = ((logits.float() / temperature).log_softmax(-1) for logits in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


class Distillation(Algorithm):
    """Adds ``strength`` times the mean :func:`divergence` over the learned tokens of the global batch to the loss.

    Each rank holds the teacher whole: for one process and DDP. It computes without dropout, in the precision of the
    model under training. Checkpoints do not contain it.

    Args:
        teacher: folder of the model before the task.
        strength: weight of the divergence, at least 0.
        temperature: T, more than 0.
    """

    def __init__(self, teacher: Path, strength: float, temperature: float):
        self.folder, self.strength, self.temperature = teacher, strength, temperature
        self._teacher: Any = None

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.FIT_START, Event.BEFORE_BACKWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            self._teacher = state.device.module_to_device(read_model(self.folder).eval().requires_grad_(False))
            return
        model: Any = bare(state)
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            teacher = model.logits_of(self._teacher, state.batch)
        student = model.only_learned(state.outputs, state.batch)
        weight = model.spread(state.batch["weight"], state.batch) / len(state.batch["weight"])
        state.loss = state.loss + self.strength * (weight * divergence(student, teacher, self.temperature)).sum()
