"""When to merge: the steps of Algorithm 1, in exact arithmetic. All schedules use :class:`Clock`."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

Number = float | int | str | Decimal | Fraction

COUNTED = ("ba", "sp", "tok")  # batches, samples, tokens: the units of progress
UNITS = (*COUNTED, "ep", "dur")  # and epochs, and fractions of the whole training
_DURATION = re.compile(r"([0-9_]*\.?[0-9_]*)([a-z]+)")


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
    return list(Clock(fraction * T, T))


def exact_fraction(p: Number) -> Fraction:
    """``p`` as the decimal number that was written, so that 0.1 is one tenth and not 0.1000000000000000055…"""
    return p if isinstance(p, Fraction) else Fraction(str(p))


@dataclass(frozen=True)
class Clock:
    """Counts at which something is due: the first at or after every multiple of an interval, and the end.

    Iterating yields all of them up to ``total``.

    Args:
        interval: positive interval, in the counted unit (steps, samples or tokens).
        total: the count at which the training ends; ``None``: unknown in advance.
    """

    interval: Fraction
    total: int | None = None

    def next_after(self, count: int) -> int | None:
        """The first due count after ``count``; ``None`` if the training ends first."""
        if self.total is not None and count >= self.total:
            return None
        upcoming = math.ceil((count // self.interval + 1) * self.interval)
        return upcoming if self.total is None else min(upcoming, self.total)

    def is_due(self, before: int, now: int) -> bool:
        """Whether a due count lies in (``before``, ``now``]: a step may cover many samples or tokens."""
        upcoming = self.next_after(before)
        return upcoming is not None and now >= upcoming

    def __iter__(self) -> Iterator[int]:
        upcoming = self.next_after(0)
        while upcoming is not None:
            yield upcoming
            upcoming = self.next_after(upcoming)


@dataclass(frozen=True)
class Duration:
    """An amount of training, such as ``"50ba"``, ``"1ep"``, ``"1_000_000tok"`` or ``"0.25dur"``, exactly.

    Attributes:
        value: positive number.
        unit: ``ba`` batches, that is, steps; ``ep`` epochs; ``sp`` samples; ``tok`` tokens; ``dur`` the whole training.
    """

    value: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Reads a duration.

        Raises:
            ValueError: it is not a duration, its unit is unknown, or it is not positive.
        """
        match = _DURATION.fullmatch(text)
        if match is None or match[2] not in UNITS or not re.search("[0-9]", match[1]):
            raise ValueError(f"counts {', '.join(UNITS)}, like 50ba or 0.25dur, not {text!r}")
        value = exact_fraction(match[1].replace("_", ""))
        if value <= 0:
            raise ValueError(f"must be positive, not {text!r}")
        return cls(value, match[2])

    def in_steps(self, total: int, epoch: Fraction | float) -> Fraction:
        """The duration in steps, in a training of ``total`` steps with ``epoch`` steps per epoch.

        Raises:
            KeyError: it counts samples or tokens.
        """
        return {"ba": self.value, "ep": self.value * Fraction(epoch), "dur": self.value * total}[self.unit]

    def step_count(self, sequences: int, batch: int, seq_len: int) -> int:
        """The number of steps, of ``batch`` sequences of ``seq_len`` tokens. Epochs omit an incomplete last batch, so
        they can be 0 steps; tokens are rounded up to a step.

        Raises:
            KeyError: it is a fraction of a training, or counts samples.
        """
        tokens = Fraction(math.ceil(self.value / (batch * seq_len)))
        steps = {"ba": self.value, "ep": self.value * sequences / batch, "tok": tokens}
        return math.floor(steps[self.unit])

    def __str__(self) -> str:
        value = int(self.value) if self.value.denominator == 1 else float(self.value)
        return f"{value}{self.unit}"
