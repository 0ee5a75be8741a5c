"""The model as Composer trains it: forward pass and loss."""

from typing import Any

from composer.models import ComposerModel
from torch import Tensor, nn

from sfa.data.packing import IGNORED


class StageModel(ComposerModel):
    """A causal language model for a Composer Trainer.

    The loss is the cross-entropy over the learned tokens of the *global* batch, whatever its split over ranks and
    microbatches: see :class:`sfa.data.batches.Steps`.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        blocks = set(getattr(model, "_no_split_modules", None) or [])
        model.fsdp_wrap_fn = lambda module: type(module).__name__ in blocks

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[batch, seq_len, vocab]``. Restarting ``position_ids`` keep attention inside each example."""
        output = self.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
        logits: Tensor = output.logits
        return logits

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean over sequences of ``weight · summed token loss``; scalar, float32."""
        labels = batch["labels"][:, 1:]
        logits = outputs[:, :-1].float().flatten(0, 1)
        losses = nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="none")
        return (losses.view_as(labels).sum(1) * batch["weight"]).mean()
