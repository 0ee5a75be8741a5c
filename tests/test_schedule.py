"""merge_steps: ceil(k·p·T) up to T, and T once, in exact arithmetic; the clock behind it, and durations."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfa import merge_steps
from sfa.schedule import Clock, Duration

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


@given(total=st.integers(1, 400), p=DECIMALS, jumps=st.lists(st.integers(1, 30), max_size=60))
def test_a_clock_is_due_in_a_jump_if_a_multiple_or_the_end_lies_in_it(total: int, p: str, jumps: list[int]) -> None:
    clock, now = Clock(Fraction(p) * total, total), 0
    due = set(merge_steps(total, p))
    for jump in jumps:
        assert clock.is_due(now, now + jump) == bool(due & set(range(now + 1, now + jump + 1)))
        assert clock.next_after(now) == min((step for step in due if step > now), default=None)
        now += jump


@pytest.mark.parametrize("text", ["50ba", "1ep", "1000sp", "1000000tok", "0.25dur"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert str(Duration.parse(text)) == text == str(Duration.parse(text.replace("1000", "1_000")))


def test_durations_in_steps_are_exact() -> None:
    assert Duration.parse("0.1dur").in_steps(20, epoch=7) == 2
    assert Duration.parse("3ep").in_steps(100, epoch=Fraction(100, 3)) == 100  # not 100.00000000000001
    assert Duration.parse("50ba").in_steps(20, epoch=7) == 50


@pytest.mark.parametrize("text", ["", "5", "ba", "5 ba", "-5ba", "5sec", "1.2.3ba", "_ba", "0ba", "0.0dur", "nanba"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"counts ba, sp, tok, ep, dur|must be positive"):
        Duration.parse(text)
