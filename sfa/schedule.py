"""When to merge: the steps of Algorithm 1."""

import math
from decimal import Decimal
from fractions import Fraction

Number = float | int | str | Decimal | Fraction


def exact_fraction(p: Number) -> Fraction:
    """Reads ``p`` as the decimal number a person wrote, so that 0.1 is one tenth and not 0.1000000000000000055…"""
    return p if isinstance(p, Fraction) else Fraction(str(p))


def merge_steps(T: int, p: Number) -> list[int]:
    """Steps after which SFA merges, in a training of ``T`` steps.

    These are ``ceil(k·p·T)`` for k = 1, 2, … up to ``T``, and ``T`` itself once (Algorithm 1: every pT steps and at
    the end). The arithmetic is exact in the decimal ``p``.

    Args:
        T: number of optimizer steps, at least 1.
        p: averaging frequency as a fraction of the training, in (0, 1]. ``p = 1`` merges once, at the end.

    Returns:
        Strictly increasing steps, counted from 1; the last is ``T``.

    Raises:
        ValueError: ``T`` is below 1, or ``p`` is not in (0, 1].

    Examples:
        >>> merge_steps(20, 0.1)
        [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
        >>> merge_steps(10, 0.3)
        [3, 6, 9, 10]
    """
    if T < 1:
        raise ValueError(f"T is the number of training steps and must be at least 1, not {T}")
    fraction = exact_fraction(p)
    if not 0 < fraction <= 1:
        raise ValueError(f"p is a fraction of the training and must lie in (0, 1], not {p}")
    return interval_steps(T, fraction * T)


def interval_steps(T: int, interval: Fraction) -> list[int]:
    """Steps ``ceil(k·interval)`` up to ``T``, and ``T`` itself once."""
    if interval <= 1:
        return list(range(1, T + 1))
    steps = [math.ceil(k * interval) for k in range(1, T // interval + 1)]
    return steps if steps and steps[-1] == T else [*steps, T]


def crosses(before: int, now: int, interval: Fraction) -> bool:
    """Whether a multiple of ``interval`` lies in (``before``, ``now``]."""
    return now // interval > before // interval


def in_steps(interval: str, total: int, epoch: float) -> Fraction:
    """An interval such as ``"50ba"``, ``"1ep"`` or ``"0.25dur"`` in steps, of a training of ``total`` steps with
    ``epoch`` steps an epoch."""
    unit = interval.lstrip("0123456789_.")
    value = exact_fraction(interval.removesuffix(unit).replace("_", ""))
    return {"ba": value, "ep": value * Fraction(epoch), "dur": value * total}[unit]
