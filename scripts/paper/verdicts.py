"""Verdicts: quantities that must be above 0, decided by their intervals over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.interval import half_width

Point = tuple[float, float]
EQUAL = "no difference"
POINTS = 0.02  # a smaller difference between two scores is none; claim 5 grants rehearsal as much


@dataclass(frozen=True)
class Quantity:
    """A quantity that must be above 0, with one value per seed.

    Attributes:
        negligible: an interval that contains 0 and lies within ± this is no difference, instead of undecided.
    """

    what: str
    values: list[float]
    negligible: float = 0.0

    @property
    def interval(self) -> Point:
        mean, half = statistics.fmean(self.values), half_width(self.values)
        return mean - half, mean + half

    @property
    def verdict(self) -> str:
        low, high = self.interval
        if low <= 0 <= high:
            return EQUAL if max(-low, high) < self.negligible else "undecided"
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def decide(quantities: Sequence[Quantity]) -> str:
    verdicts = {quantity.verdict for quantity in quantities}
    return next(v for v in ("does not hold", "undecided", EQUAL, "holds") if v in verdicts)
