"""The n-th largest magnitude of a vector too long for memory, exactly, by counting twice."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sfa.errors import MergeError

BUCKETS = 1 << 16


def threshold(parts: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The smallest magnitude among the ``density`` of a vector's entries that are largest; at least one entry is kept.

    Magnitudes of float32 are ordered as their bits are, read as an integer. So the first pass counts the upper 16 bits
    of all, which says what those of the threshold are, and the second the lower 16 of those entries that have them.

    Args:
        parts: called twice; gives the vector in flat float32 parts, in any order. They are used up; beside one of
            them, and three times its size, nothing is in memory.
        density: the share that is kept, from 0 to 1.

    Raises:
        MergeError: ``density`` is no such share, or the vector is empty.
    """
    upper = torch.zeros(BUCKETS // 2, dtype=torch.int64)  # a magnitude has no sign
    for bits in _magnitudes(parts()):
        upper += torch.bincount(bits >> 16, minlength=len(upper))
    total = int(upper.sum())
    if not 0 <= density <= 1 or not total:
        raise MergeError(f"a density is from 0 to 1, of at least one entry; not {density} of {total}")
    kept = max(1, round(density * total))
    top, larger = _bucket(upper, kept)
    lower = torch.zeros(BUCKETS, dtype=torch.int64)
    for bits in _magnitudes(parts()):
        lower += torch.bincount(bits[bits >> 16 == top] & (BUCKETS - 1), minlength=BUCKETS)
    bottom, _ = _bucket(lower, kept - larger)
    return float(torch.tensor(top << 16 | bottom, dtype=torch.int32).view(torch.float32))


def _magnitudes(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    for part in parts:
        yield part.abs_().view(torch.int32)


def _bucket(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket that holds the entry of ``rank``, counting from the last bucket, and how many are in later ones."""
    from_last = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(from_last, rank))
    bucket = len(counts) - 1 - steps
    return bucket, int(from_last[steps] - counts[bucket])
