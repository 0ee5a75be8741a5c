"""Dark experience replay (DER, DER++) as a Composer algorithm."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor

from sfa.data.memory import Memory, Place
from sfa.stored_logits import StoredLogits
from sfa.trainers.memory import backward, token_loss
from sfa.trainers.origin import bare


class DER(Algorithm):
    """Adds to every step's loss α times the mean squared difference between the model's logits and the stored ones,
    over the learned tokens of a draw from memory and the entries of the vocabulary, and, in DER++, β times the loss on
    another draw (Buzzega et al., 2020; the mean over entries, where the paper has a norm, is that of its code).

    Each rank works on its own part of a draw, so one process, DDP and FSDP2 behave alike. It works between the backward
    passes and clipping: list it before gradient clipping.

    Args:
        memory: the stored sequences.
        stored: their logits, of each past task.
        alpha: α, at least 0.
        beta: β, at least 0; 0: DER.
        report: prints how much is stored.
    """

    def __init__(
        self,
        memory: Memory,
        stored: Sequence[StoredLogits],
        alpha: float,
        beta: float,
        report: Callable[[str], None] = print,
    ):
        self.memory, self.stored, self.alpha, self.beta, self.report = memory, list(stored), alpha, beta, report

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.FIT_START, Event.AFTER_TRAIN_BATCH)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        model: Any = bare(state)
        if event == Event.FIT_START:
            self.memory.further_bytes = sum(stored.make(model, state, self.report) for stored in self.stored)
            return

        def to_stored(outputs: Tensor, batch: dict[str, Tensor], places: list[Place]) -> Tensor:
            now = model.only_learned(outputs, batch).float()
            then = torch.cat([self.stored[task].of(row) for task, row in places]).to(now.device)
            weight = model.spread(batch["weight"], batch)
            total: Tensor = (weight * (now - then).square().mean(-1)).sum()
            return self.alpha * total

        def to_labels(outputs: Tensor, batch: dict[str, Tensor], places: list[Place]) -> Tensor:
            return self.beta * token_loss(model)(outputs, batch, places)

        backward(state, self.memory, to_stored)
        if self.beta > 0:
            backward(state, self.memory, to_labels, which=1)
