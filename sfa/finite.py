"""Detects infinite values and NaNs before they reach the weights or a checkpoint."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sfa.errors import NotFinite


def check(tensors: Mapping[str, Tensor], what: str) -> None:
    """Checks all tensors with one transfer from the device.

    Args:
        tensors: tensors by name.
        what: what they are, for the message.

    Raises:
        NotFinite: a tensor contains an infinite value or a NaN; names the first.
    """
    named = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    if not named:
        return
    largest = torch._foreach_norm(list(named.values()), float("inf"))
    wrong = ~torch.isfinite(torch.stack([norm.float() for norm in largest]))
    if bool(wrong.any()):
        name = list(named)[int(wrong.nonzero()[0])]
        raise NotFinite(f"the {what} of {name} is not finite")
