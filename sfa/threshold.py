"""The n-th largest magnitude of a vector too long for memory, exactly, by counting twice."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Part = NDArray[np.float32]
Bits = NDArray[np.int32]
BUCKETS = 1 << 16


def threshold(parts: Callable[[], Iterable[Part]], density: float) -> float:
    """The smallest magnitude among the ``density`` of a vector's entries that are largest; at least one entry is kept.

    Magnitudes of float32 are ordered as their bits are, read as an integer. So the first pass counts the upper 16 bits
    of all, which says what those of the threshold are, and the second the lower 16 of those entries that have them.

    Args:
        parts: called twice; gives the vector in flat parts, in any order. They are used up; beside one of them, and
            three times its size, nothing is in memory.
        density: the share that is kept, from 0 to 1.

    Raises:
        ValueError: ``density`` is no such share, or the vector is empty.
    """
    upper = np.zeros(BUCKETS // 2, np.int64)  # a magnitude has no sign
    for bits in _magnitudes(parts()):
        upper += np.bincount(bits >> 16, minlength=len(upper))
    total = int(upper.sum())
    if not 0 <= density <= 1 or not total:
        raise ValueError(f"a density is from 0 to 1, of at least one entry; not {density} of {total}")
    kept = max(1, round(density * total))
    top, larger = _bucket(upper, kept)
    lower = np.zeros(BUCKETS, np.int64)
    for bits in _magnitudes(parts()):
        lower += np.bincount(bits[bits >> 16 == top] & (BUCKETS - 1), minlength=BUCKETS)
    bottom, _ = _bucket(lower, kept - larger)
    return float(np.array(top << 16 | bottom, np.int32).view(np.float32))


def _magnitudes(parts: Iterable[Part]) -> Iterator[Bits]:
    for part in parts:
        yield np.abs(part, out=part).view(np.int32)


def _bucket(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bucket that holds the entry of ``rank``, counting from the last bucket, and how many are in later ones."""
    from_last = np.cumsum(counts[::-1])
    steps = int(np.searchsorted(from_last, rank))
    bucket = len(counts) - 1 - steps
    return bucket, int(from_last[steps] - counts[bucket])
