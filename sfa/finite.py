"""Detects infinite values and NaNs before they reach the weights or a checkpoint."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sfa.errors import NotFinite


def check(tensors: Mapping[str, Tensor], what: str) -> None:
    """Checks all tensors with one transfer from the device.

    Args:
        tensors: tensors by name, all on one device.
        what: what they are, for the message.

    Raises:
        NotFinite: a tensor contains an infinite value or a NaN; names the first.
    """
    named = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    if not named:
        return
    wrong = ~torch.isfinite(_extremes(list(named.values()))).all(1)
    if bool(wrong.any()):
        name = list(named)[int(wrong.nonzero()[0])]
        raise NotFinite(f"the {what} of {name} is not finite")


def _extremes(tensors: list[Tensor]) -> Tensor:
    """A few values of each tensor, ``[tensors, n]``, float32, finite if and only if all of its values are."""
    if tensors[0].is_cuda:
        return torch.stack([norm.float() for norm in torch._foreach_norm(tensors, float("inf"))])[:, None]
    # torch 2.7 has no vectorized maximum norm on CPU: it takes ten times as long.
    return torch.stack([torch.stack(torch.aminmax(tensor)).float() for tensor in tensors])
