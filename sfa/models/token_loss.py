"""The cross-entropy of a language model over the tokens of its responses.

Labels are ``[batch, length]``, ``IGNORED`` where nothing is learned. ``shift`` is by how many positions logits
precede the labels that they predict: 1 for a decoder, 0 for an encoder-decoder.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfa.data.packing import IGNORED


def losses(logits: Tensor, labels: Tensor, shift: int) -> Tensor:
    """Summed loss of the learned tokens of each sequence, ``[batch]``, float32; ``logits`` are ``[batch, length,
    vocab]``, or only those of learned tokens, ``[learned tokens, vocab]``."""
    targets = _targets(labels, shift)
    if logits.ndim == 2:
        wanted = targets != IGNORED
        token_losses = nn.functional.cross_entropy(logits.float(), targets[wanted], reduction="none")
        return torch.zeros_like(targets, dtype=torch.float32).masked_scatter(wanted, token_losses).sum(1)
    flat = logits.float().flatten(0, 1)
    token_losses = nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return token_losses.view_as(targets).sum(1)


def sampled(logits: Tensor, labels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """``labels`` with every learned token sampled from ``logits``, ``[batch, length, vocab]``."""
    predicting = logits[:, : logits.shape[1] - shift].detach().float().cpu()
    probabilities = predicting.softmax(-1).flatten(0, 1)
    drawn = torch.multinomial(probabilities, 1, generator=generator).view(predicting.shape[:2])
    labels_drawn = labels.clone()
    labels_drawn[:, shift:] = torch.where(labels_drawn[:, shift:] == IGNORED, IGNORED, drawn.to(labels_drawn.device))
    return labels_drawn


def learned(labels: Tensor, shift: int) -> Tensor:
    """Mask of the positions whose logits predict a learned token, ``[batch, length]``, bool."""
    return _targets(labels, shift) != IGNORED


@contextlib.contextmanager
def only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """Inside, ``head`` only receives the hidden states at ``positions``, ``[n, width]``."""

    def select(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][positions],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _targets(labels: Tensor, shift: int) -> Tensor:
    """The label that the logits at each position predict, ``[batch, length]``."""
    return nn.functional.pad(labels[:, shift:], (0, shift), value=IGNORED) if shift else labels
