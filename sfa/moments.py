"""The state of an optimizer after a merge."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sfa.anchor import local


@torch.no_grad()
def average(optimizer: torch.optim.Optimizer, betas: Mapping[Tensor, float]) -> None:
    """Averages an optimizer's moments with those of θ_o, which are zero: m ← (1−β)·m + β·0, in place.

    θ_o is the end of a finished training. It does not move and has no gradient, so its momentum and its mean squared
    gradient are zero, and the merged model moves (1−β) times as fast. Adam divides by the root of the second moment, so
    its next step is √(1−β) times as large. Numbers of steps are kept.

    Args:
        optimizer: its state is changed where it holds tensors of floating-point numbers other than ``step``.
        betas: β of each trained parameter.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if key != "step" and isinstance(value, Tensor) and value.is_floating_point():
                local(value).mul_(1 - betas[parameter])
