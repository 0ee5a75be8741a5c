"""Gradients of L1, L2 and EWC: penalties on the distance to θ_o."""

from typing import Literal

import torch
from torch import Tensor

from sfa.anchor import buckets, check_same

Kind = Literal["l1", "l2", "ewc"]


@torch.no_grad()
def add_gradient(
    kind: Kind,
    strength: float,
    gradients: dict[str, Tensor],
    shards: dict[str, Tensor],
    anchor: dict[str, Tensor],
    fisher: dict[str, Tensor] | None = None,
) -> None:
    """Adds a penalty's gradient to ``gradients`` in place, bucket by bucket, without an autograd graph.

    | kind | penalty                  | its gradient      |
    |------|--------------------------|-------------------|
    | l1   | λ·‖θ − θ_o‖₁             | λ·sign(θ − θ_o)   |
    | l2   | λ/2·‖θ − θ_o‖² (eq. 1)   | λ·(θ − θ_o)       |
    | ewc  | λ/2·Σ F_o (θ − θ_o)²     | λ·F_o·(θ − θ_o)   |

    Args:
        kind: kind of penalty.
        strength: λ.
        gradients: this rank's shards of the gradients, by name.
        shards: θ, with the same names and shapes.
        anchor: θ_o, in host memory or on the device.
        fisher: F_o, the diagonal Fisher information, for ``ewc``.
    """
    check_same(shards, anchor)
    sets = [gradients, shards, anchor, *([fisher] if fisher is not None else [])]
    for gradient, theta, theta_o, *weight in buckets(*sets):
        difference = torch._foreach_sub(theta, theta_o)
        if kind == "l1":
            torch._foreach_sign_(difference)
        elif kind == "ewc":
            torch._foreach_mul_(difference, weight[0])
        torch._foreach_add_(gradient, difference, alpha=strength)
