"""LoRA: the average of two products B·A, which is not the product of averaged factors.

The product of averages differs from the average of products by −β(1−β)·(B−B_o)(A−A_o). The exact average
β·B_oA_o + (1−β)·BA is the product of concatenated factors, [β·B_o, (1−β)·B] · [A_o; A], of up to twice the rank.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

_A = re.compile(r"\.lora_(embedding_)?A(\.|$)")
WELL_CONDITIONED = 10.0  # beyond it factors grow far larger than their product needs, and training them fails


class Factors(NamedTuple):
    """A low-rank matrix B·A: ``b`` of shape (out, r), ``a`` of shape (r, in)."""

    b: Tensor
    a: Tensor


def average(new: Factors, old: Factors, beta: float, rank: int | None = None) -> tuple[Factors, float, float]:
    """β·B_oA_o + (1−β)·BA as a product of two factors.

    A product has many factorizations. This one is chosen to be close to the averaged factors, for which the state of an
    optimizer was made: with β = 0 it is (B, A), and with β = 1 it is (B_o, A_o), up to rounding.

    Args:
        new: B and A.
        old: B_o and A_o, of the same shapes.
        beta: weight β of the old product.
        rank: rank of the result; ``None``: the sum of both ranks, at which the average is exact.

    Returns:
        The factors, the Frobenius norm of what they lack, and that of the average.
    """
    b = torch.cat([beta * old.b.double(), (1 - beta) * new.b.double()], 1)
    a = torch.cat([old.a.double(), new.a.double()], 0)
    if rank is None:
        return Factors(b.to(new.b.dtype), a.to(new.a.dtype)), 0.0, _norm(b, a)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    total, lost = float(s.norm()), float(s[rank:].norm())
    u, s, vt = q_b @ u[:, :rank], s[:rank], vt[:rank] @ q_a.T
    mean = torch.lerp(new.a.double(), old.a.double(), beta)
    change = mean @ vt.T  # the mean of A in the basis of rows: B' = U·S·change⁻¹ and A' = change·Vᵀ
    if len(s) == rank and float(torch.linalg.cond(change)) < WELL_CONDITIONED:
        b, a = torch.linalg.solve(change.T, (u * s).T).T, change @ vt
    else:  # A was averaged away, or the rank exceeds the matrix: share the scale evenly
        unused = rank - len(s)
        b, a = (
            nn.functional.pad(u * s.sqrt(), (0, unused)),
            nn.functional.pad(s.sqrt()[:, None] * vt, (0, 0, 0, unused)),
        )
    return Factors(b.to(new.b.dtype), a.to(new.a.dtype)), lost, total


def factor_error(new: Factors, old: Factors, beta: float) -> tuple[float, float]:
    """‖B̄Ā − (β·B_oA_o + (1−β)·BA)‖ for averaged factors B̄ and Ā, and ‖β·B_oA_o + (1−β)·BA‖, Frobenius norms."""
    difference = beta * (1 - beta) * _norm((new.b - old.b).double(), (new.a - old.a).double())
    b = torch.cat([beta * old.b.double(), (1 - beta) * new.b.double()], 1)
    return difference, _norm(b, torch.cat([old.a, new.a], 0).double())


def average_products(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor], names: Sequence[tuple[str, str]], beta: float, exact: bool
) -> tuple[dict[str, Tensor], float]:
    """The averages of named products at their own rank, and their error, in the Frobenius norm over all of them and
    relative to that of the exact averages.

    Args:
        new: tensors by name.
        old: those of the old model.
        names: factors B and A, as from :func:`pairs`.
        beta: weight β of the old products.
        exact: return the averages; otherwise nothing, and the error that averaged factors have.
    """
    averaged: dict[str, Tensor] = {}
    lost = total = 0.0
    for b, a in names:
        factors = Factors(new[b], new[a])
        others = Factors(*(old[name].to(new[name].device) for name in (b, a)))
        if exact:
            result, error, norm = average(factors, others, beta, rank=new[a].shape[0])
            averaged |= {b: result.b, a: result.a}
        else:
            error, norm = factor_error(factors, others, beta)
        lost, total = lost + error**2, total + norm**2
    return averaged, math.sqrt(lost / total) if total else 0.0


def pairs(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The names of the factors B and A of every low-rank adapter with matrices as factors."""
    found = []
    for name in tensors:
        if _A.search(name):
            b = _A.sub(lambda match: match[0].replace("A", "B"), name)
            if b in tensors and tensors[name].ndim == tensors[b].ndim == 2:
                found.append((b, name))
    return found


def _norm(b: Tensor, a: Tensor) -> float:
    """‖B·A‖, from matrices of the size of the rank."""
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
