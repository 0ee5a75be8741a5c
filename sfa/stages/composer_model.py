"""The model as Composer trains it: forward pass and loss."""

from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor, nn

from sfa.families import family_of
from sfa.models.outline import blocks_of


class StageModel(ComposerModel):
    """A model of ``transformers`` for a Composer Trainer, of any family.

    The loss is the cross-entropy over the learned tokens (or image labels) of the *global* batch, independent of its
    split over ranks and microbatches: see :class:`sfa.data.batches.BatchSchedule`.

    Args:
        model: the ``transformers`` model.
        processor: its tokenizer or image processor.
        cpu_bf16: compute in bfloat16 on CPU, where Composer allows only float32; weights stay float32.
        omits_frozen: leave weights that are not trained out of checkpoints: those of a model under adapters, which is
            read again to resume.
    """

    def __init__(self, model: Any, processor: Any, cpu_bf16: bool = False, omits_frozen: bool = False):
        super().__init__()
        self.model = model
        self.processor = processor
        self.cpu_bf16 = cpu_bf16
        self.family = family_of(model.config)
        blocks = {*blocks_of(model)}
        model.fsdp_wrap_fn = lambda module: module in blocks
        if omits_frozen:
            self.register_state_dict_post_hook(_omit_frozen)
            self.register_load_state_dict_pre_hook(_leave_frozen)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """See :meth:`sfa.families.Family.logits`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bf16):
            return self.family.logits(self.model, self.processor, batch)

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean over sequences of ``weight · summed loss``; scalar, float32."""
        return (self.sequence_losses(outputs, batch) * batch["weight"]).mean()

    def logits_of(self, other: Any, batch: dict[str, Tensor]) -> Tensor:
        """Another model's logits of the learned tokens, see :meth:`sfa.families.Family.learned_logits`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bf16):
            return self.family.learned_logits(other, self.processor, batch)

    def only_learned(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """See :meth:`sfa.families.Family.only_learned`."""
        return self.family.only_learned(outputs, batch)

    def spread(self, values: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """One value per sequence, ``[batch]``, repeated for each of its learned tokens."""
        return values.repeat_interleave(self.family.learned_counts(batch))

    def sampled(self, outputs: Tensor, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See :meth:`sfa.families.Family.sample`."""
        return self.family.sample(outputs, batch, generator)

    def sequence_losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """See :meth:`sfa.families.Family.losses`."""
        return self.family.losses(outputs, batch)


def _omit_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _leave_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, *others: Any) -> None:
    """Frozen weights that a checkpoint lacks stay as they are."""
    for name, weight in _frozen(module).items():
        state.setdefault(prefix + name, weight)


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: weight.detach() for name, weight in named if not weight.requires_grad}
