"""merge_steps: ceil(k·p·T) up to T, and T once, in exact arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfa import merge_steps

DECIMALS = st.decimals(min_value="0.001", max_value="1", places=3).map(str)


@given(T=st.integers(1, 400), p=DECIMALS)
def test_every_merge_is_the_first_step_at_or_after_a_multiple_of_pT(T: int, p: str) -> None:
    steps = merge_steps(T, p)
    expected, k = {T}, 1
    while k * Fraction(p) * T <= T:
        threshold = k * Fraction(p) * T
        expected.add(next(t for t in range(1, T + 1) if t >= threshold))
        k += 1
    assert steps == sorted(expected)


@given(T=st.integers(1, 400), p=DECIMALS)
def test_a_float_means_the_decimal_it_prints(T: int, p: str) -> None:
    assert merge_steps(T, float(p)) == merge_steps(T, p)


@pytest.mark.parametrize(
    ("T", "p", "steps"),
    [
        (20, 0.1, list(range(2, 21, 2))),  # 0.1·3·20 is a little over 6 in floating point
        (10, 1, [10]),
        (10, 0.98, [10]),
        (100, 0.98, [98, 100]),
        (10, 0.25, [3, 5, 8, 10]),
        (1, 0.1, [1]),
        (4, 0.1, [1, 2, 3, 4]),
    ],
)
def test_known_schedules(T: int, p: float, steps: list[int]) -> None:
    assert merge_steps(T, p) == steps


@pytest.mark.parametrize(("T", "p"), [(0, 0.5), (10, 0), (10, 1.01), (10, -0.1)])
def test_out_of_range_is_refused(T: int, p: float) -> None:
    with pytest.raises(ValueError, match="must"):
        merge_steps(T, p)
