"""Whether each row of an evaluation was right, in one bit each, and what changed between two evaluations of the same
rows, which an average hides."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Flips(NamedTuple):
    """Rows whose outcome changed from one evaluation to a later one.

    Attributes:
        lost: rows that were right and are wrong.
        gained: rows that were wrong and are right.
        p: of McNemar's exact test (McNemar, 1947): how likely a split at least this uneven would be if each row that
            changed had been as likely to change in either direction; 1 if none changed.
    """

    lost: int
    gained: int
    p: float


def pack(values: Sequence[Any] | NDArray[Any]) -> str | None:
    """Base64 of one bit per row, the first row in the highest bit; ``None`` if a value is neither 0 nor 1."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):  # a metric of another form, such as a list
        return None
    if numbers.ndim != 1 or not np.isin(numbers, (0, 1)).all():
        return None
    return base64.b64encode(np.packbits(numbers.astype(bool)).tobytes()).decode()


def unpack(text: str, n: int) -> NDArray[np.bool_]:
    """The outcomes of ``n`` rows that :func:`pack` wrote.

    Raises:
        ValueError: the text is not of that many rows.
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8))
    if len(bits) != -(-n // 8) * 8:
        raise ValueError(f"{len(bits)} bits are not the outcomes of {n} rows")
    return bits[:n].astype(bool)


def flips(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Flips:
    """What changed between two evaluations of the same rows, ``[n]`` each."""
    from scipy.stats import binomtest

    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    p = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Flips(lost, gained, p)
