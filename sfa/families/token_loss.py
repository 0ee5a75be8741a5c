"""The cross-entropy of a language model over the tokens of its responses.

Labels are ``[batch, length]``, ``IGNORED`` where nothing is learned. ``shift`` is how many positions the logits lie
before the labels that they predict: 1 of a decoder, 0 of an encoder-decoder.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfa.data.packing import IGNORED


def losses(logits: Tensor, labels: Tensor, shift: int) -> Tensor:
    """Summed loss of the learned tokens of each sequence, ``[batch]``, float32; ``logits`` are ``[batch, length,
    vocab]``, or those of the learned tokens alone, ``[learned tokens, vocab]``."""
    targets = _targets(labels, shift)
    if logits.ndim == 2:
        wanted = targets != IGNORED
        each = nn.functional.cross_entropy(logits.float(), targets[wanted], reduction="none")
        return torch.zeros_like(targets, dtype=torch.float32).masked_scatter(wanted, each).sum(1)
    flat = logits.float().flatten(0, 1)
    found = nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return found.view_as(targets).sum(1)


def sampled(logits: Tensor, labels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """``labels`` with every learned token drawn from ``logits``, ``[batch, length, vocab]``."""
    predicting = logits[:, : logits.shape[1] - shift].detach().float().cpu()
    probabilities = predicting.softmax(-1).flatten(0, 1)
    drawn = torch.multinomial(probabilities, 1, generator=generator).view(predicting.shape[:2])
    found = labels.clone()
    found[:, shift:] = torch.where(found[:, shift:] == IGNORED, IGNORED, drawn.to(found.device))
    return found


def learned(labels: Tensor, shift: int) -> Tensor:
    """At which positions the logits predict a token that is learned, ``[batch, length]``, bool."""
    return _targets(labels, shift) != IGNORED


@contextlib.contextmanager
def only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """Inside, ``head`` is given the hidden states of ``positions`` alone, ``[n, width]``."""

    def select(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        return (given[0][positions],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _targets(labels: Tensor, shift: int) -> Tensor:
    """The label that the logits at each position predict, ``[batch, length]``."""
    return nn.functional.pad(labels[:, shift:], (0, shift), value=IGNORED) if shift else labels
