"""The model as Composer trains it: forward pass and loss."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor, nn
from transformers import BaseImageProcessor

from sfa.data.packing import IGNORED
from sfa.data.pixels import normalised
from sfa.kinds import is_encoder_decoder


class StageModel(ComposerModel):
    """A model of ``transformers`` for a Composer Trainer: decoder, encoder-decoder or image classifier.

    The loss is the cross-entropy over the learned tokens (the labels of images) of the *global* batch, whatever its
    split over ranks and microbatches: see :class:`sfa.data.batches.Steps`. In training, logits are computed of the
    learned tokens alone: a prompt's would be as many as the vocabulary, for no loss.

    Args:
        model: the ``transformers`` model.
        processor: the tokenizer or image processor; an image processor says how pixels are normalised.
        cpu_bf16: computes in bfloat16 on CPU, where Composer itself allows only float32; weights stay float32.
    """

    def __init__(self, model: Any, processor: Any, cpu_bf16: bool = False):
        super().__init__()
        self.model = model
        self.cpu_bf16 = cpu_bf16
        self.pairs = is_encoder_decoder(model.config)
        self.processor = processor if isinstance(processor, BaseImageProcessor) else None
        blocks = set(getattr(model, "_no_split_modules", None) or [])
        model.fsdp_wrap_fn = lambda module: type(module).__name__ in blocks

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[batch, length, vocab]``; in training ``[learned tokens, vocab]``; of images ``[batch, labels]``.
        Restarting ``position_ids`` keep attention inside each example of a packed sequence."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bf16):
            if self.processor is not None:
                found: Tensor = self.model(pixel_values=normalised(batch["pixel_values"], self.processor)).logits
                return found
            head = self.model.get_output_embeddings() if self.model.training else None
            if head is None:
                return self._text_logits(batch)
            with _only(self._targets(batch["labels"]) != IGNORED, head):
                return self._text_logits(batch)

    def _text_logits(self, batch: dict[str, Tensor]) -> Tensor:
        if self.pairs:
            shifted = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            given = {"attention_mask": batch["attention_mask"], "decoder_input_ids": shifted}
        else:
            packed = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
            given = {**packed, "use_cache": False}
        logits: Tensor = self.model(input_ids=batch["input_ids"], **given).logits
        return logits

    def _targets(self, labels: Tensor) -> Tensor:
        """What the logits at each position are to tell, ``[batch, length]``: of a decoder, the token that follows."""
        return labels if self.pairs else nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean over sequences of ``weight · summed loss``; scalar, float32."""
        return (self.sequence_losses(outputs, batch) * batch["weight"]).mean()

    def sampled(self, outputs: Tensor, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """``batch`` with every learned token or label drawn from the model's own prediction of it."""
        if self.processor is not None:
            drawn = torch.multinomial(outputs.detach().float().cpu().softmax(-1), 1, generator=generator)[:, 0]
            return {**batch, "labels": drawn.to(outputs.device)}
        shift = 0 if self.pairs else 1
        logits = outputs[:, : outputs.shape[1] - shift].detach().float().cpu()
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(logits.shape[:2])
        labels = batch["labels"].clone()
        labels[:, shift:] = torch.where(labels[:, shift:] == IGNORED, IGNORED, drawn.to(labels.device))
        return {**batch, "labels": labels}

    def sequence_losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Summed loss of the learned tokens of each sequence, or of each image, ``[batch]``, float32."""
        if self.processor is not None:
            return nn.functional.cross_entropy(outputs.float(), batch["labels"], reduction="none")
        targets = self._targets(batch["labels"])
        if outputs.ndim == 2:
            learned = targets != IGNORED
            each = nn.functional.cross_entropy(outputs.float(), targets[learned], reduction="none")
            return torch.zeros_like(targets, dtype=torch.float32).masked_scatter(learned, each).sum(1)
        flat = outputs.float().flatten(0, 1)
        losses = nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view_as(targets).sum(1)


@contextlib.contextmanager
def _only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """Inside, ``head`` is given the hidden states of ``positions`` alone, ``[n, width]``."""

    def select(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        return (given[0][positions],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
