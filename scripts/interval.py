"""Mean and 95 % confidence interval over repeats: seeds, and orders of tasks."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the interval for the mean, from Student's t with n−1 degrees of freedom; ``nan`` for n < 2."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its interval, 0 for a single value."""
    return statistics.fmean(values), half_width(values) if len(values) > 1 else 0.0


def format_mean_interval(values: Sequence[float], digits: int) -> str:
    """``mean ± half width``, or only the mean if all values are equal; ``nan`` if a run diverged."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {half_width(values):.{digits}f}" if len(set(values)) > 1 else mean
