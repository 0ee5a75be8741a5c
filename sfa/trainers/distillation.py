"""The divergence from the model before the task as Composer algorithms: a loss (learning without forgetting), or a
bound at which SFA merges."""

from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from sfa.models.stored import read_model
from sfa.trainers.origin import bare


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)) of each row (Hinton et al., 2015), ``[n]``, float32; the logits
    are ``[n, vocab]``. T² keeps the size of the gradient when T changes."""
    log_p, log_q = ((logits.float() / temperature).log_softmax(-1) for logits in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


class Teacher:
    """The model before the task, whole on each rank: for one process and DDP. It computes without dropout, in the
    precision of the model under training. Checkpoints do not contain it.

    Args:
        folder: folder of the model.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._model: Any = None

    def load(self, state: State) -> None:
        self._model = state.device.module_to_device(read_model(self.folder).eval().requires_grad_(False))

    def divergences(self, state: State, temperature: float) -> Tensor:
        """The :func:`divergence` at each learned token of the microbatch, ``[tokens]``, float32."""
        model: Any = bare(state)
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            teacher = model.logits_of(self._model, state.batch)
        return divergence(model.only_learned(state.outputs, state.batch), teacher, temperature)


class Distillation(Algorithm):
    """Adds ``strength`` times the mean :func:`divergence` over the learned tokens of the global batch to the loss.

    Args:
        teacher: folder of the model before the task.
        strength: weight of the divergence, at least 0.
        temperature: T, more than 0.
    """

    def __init__(self, teacher: Path, strength: float, temperature: float):
        self.teacher, self.strength, self.temperature = Teacher(teacher), strength, temperature

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.FIT_START, Event.BEFORE_BACKWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            self.teacher.load(state)
            return
        model: Any = bare(state)
        weight = model.spread(state.batch["weight"], state.batch) / len(state.batch["weight"])
        state.loss = state.loss + self.strength * (weight * self.teacher.divergences(state, self.temperature)).sum()


class Drift(Algorithm):
    """Measures KL(p_o ‖ p), the mean over the learned tokens of each global batch, before its step.

    Args:
        teacher: folder of the model before the task.
        bound: in nats.
    """

    def __init__(self, teacher: Path, bound: float):
        self.teacher, self.bound = Teacher(teacher), bound
        self._sums = torch.zeros(2)  # of the divergences, and of the tokens

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.FIT_START, Event.BATCH_START, Event.BEFORE_BACKWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            self.teacher.load(state)
        elif event == Event.BATCH_START:
            self._sums = state.device.tensor_to_device(torch.zeros(2))
        else:
            with torch.no_grad():
                values = self.teacher.divergences(state, 1.0)
            self._sums += torch.stack([values.sum(), values.new_tensor(len(values))])

    def is_passed(self) -> bool:
        """Whether the last batch's divergence is more than the bound, on all ranks alike, which all call it."""
        sums = self._sums.clone()
        dist.all_reduce(sums)
        return float(sums[0] / sums[1]) > self.bound
