"""OPCM, orthogonal projection-based continual merging (Tang et al., 2025): task vectors are added one after another,
each without its part in the span of the sum before it, and the sum is scaled to their mean norm.

The paper scales after every model. As the scale of the sum changes neither its singular vectors nor the shares of its
singular values, scaling once at the end gives the same weights.
"""

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfa.merging import SUM, Rule, check_inputs, merge, removed_on_failure, write_merge

# Names in transformers of tables that are indexed, not multiplied: their changes are added whole, as those of vectors.
_EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b|\bshared\b")


def merge_projected(base: Path, models: Sequence[Path], out: Path, alpha: float) -> list[str]:
    """base + c·Σ P(θᵢ − base), with c such that the norm of the change is the mean of those of θᵢ − base.

    Args:
        base: the model that all were trained from.
        models: folders of θᵢ, in order; the first is not projected.
        out: folder of the result.
        alpha: see :func:`project_out`.

    Returns:
        Notes on what could not be compared.

    Raises:
        MergeError: see :func:`sfa.merging.merge`.
    """
    squares = [0.0] * len(models)  # of the norms
    total = 0.0

    def rule_of(name: str) -> Rule:
        def add(tensors: list[Tensor]) -> Tensor:
            nonlocal total
            origin, *others = tensors
            is_matrix = origin.ndim == 2 and not _EMBEDDING.search(name)
            change = torch.zeros_like(origin)
            for i, theta in enumerate(others):
                vector = theta - origin
                squares[i] += float(vector.double().square().sum())
                change += project_out(vector, change, alpha) if is_matrix else vector
            total += float(change.double().square().sum())
            return origin + change

        return add

    existed, unscaled = out.is_dir(), out / SUM
    inputs = check_inputs([base, *models], out, base=True)
    shutil.rmtree(unscaled, ignore_errors=True)  # left by a process that was killed
    with removed_on_failure(unscaled if existed else out):
        notes = write_merge(inputs, rule_of, unscaled, whole_tensors=True)
        mean = math.fsum(map(math.sqrt, squares)) / len(models)
        scale = mean / math.sqrt(total) if total else 1.0
        merge([base, unscaled], lambda both: torch.add(both[0], both[1] - both[0], alpha=scale), out, base=True)
        shutil.rmtree(unscaled)
    return notes


def project_out(vector: Tensor, change: Tensor, alpha: float) -> Tensor:
    """A task vector without what it shares with the sum of those before it.

    With the singular value decomposition U·S·Vᵀ of ``change``, two parts of Uᵀ·τ·V are set to zero: its diagonal, and
    the block of the leading singular vectors whose values add up to at most ``alpha`` of all (section 4 of the paper).
    What lies outside the span of U and V stays, so that min(m, n) singular vectors are enough.

    Args:
        vector: ``[m, n]``, τ.
        change: ``[m, n]``, the sum so far; nothing is shared with a sum of 0.
        alpha: share of the sum of singular values.

    Returns:
        ``[m, n]``.
    """
    if not change.any():
        return vector
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    shared = u.T @ vector @ vh.T
    rank = int((s.cumsum(0) / s.sum() <= alpha).sum())
    removed = torch.diag(shared.diagonal())
    removed[:rank, :rank] = shared[:rank, :rank]
    cleaned: Tensor = vector - u @ removed @ vh
    return cleaned
