"""The n-th largest magnitude of a vector too long for memory, exactly, by counting twice."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sfa.errors import MergeError

BUCKETS = 1 << 16


def threshold(pieces: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The smallest magnitude among the ``density`` of a vector's entries that are largest; at least one entry is kept.

    Magnitudes of float32 are ordered like their bits, read as an integer. So the first pass counts the upper 16 bits of
    all entries, which gives those of the threshold, and the second the lower 16 bits of the entries that share them.

    Args:
        pieces: called twice; returns the vector in flat float32 pieces, in any order. They are overwritten; memory is
            limited to a piece and three times its size.
        density: the share of entries that is kept, from 0 to 1.

    Raises:
        MergeError: ``density`` is out of range, or the vector is empty.
    """
    upper = torch.zeros(BUCKETS // 2, dtype=torch.int64)  # a magnitude has no sign
    for bits in _magnitudes(pieces()):
        upper += torch.bincount(bits >> 16, minlength=len(upper))
    total = int(upper.sum())
    if not 0 <= density <= 1 or not total:
        raise MergeError(f"a density is from 0 to 1, of at least one entry; not {density} of {total}")
    rank = max(1, round(density * total))
    top, larger = _bucket(upper, rank)
    lower = torch.zeros(BUCKETS, dtype=torch.int64)
    for bits in _magnitudes(pieces()):
        lower += torch.bincount(bits[bits >> 16 == top] & (BUCKETS - 1), minlength=BUCKETS)
    bottom, _ = _bucket(lower, rank - larger)
    return float(torch.tensor(top << 16 | bottom, dtype=torch.int32).view(torch.float32))


def _magnitudes(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    for piece in pieces:
        yield piece.abs_().view(torch.int32)


def _bucket(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket that contains the entry of ``rank``, counted from the last bucket, and the number of later entries."""
    from_last = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(from_last, rank))
    bucket = len(counts) - 1 - steps
    return bucket, int(from_last[steps] - counts[bucket])
