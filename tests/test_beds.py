"""The conditions under which a stream can decide a claim, on outcomes with known numbers, and a small replay."""

import dataclasses
from pathlib import Path

import pytest

from scripts import bed as command
from scripts.paper.beds import Outcome, bed_runs, score_table, validate

YAMLS = Path(__file__).parent.parent / "yamls"
GOOD = Outcome(
    names=["math", "law", "code"],
    base=[[0.0, 0.0], [0.25, 0.27], [0.25, 0.25]],
    alone=[[0.9, 0.92], [0.84, 0.86], [0.82, 0.82]],
    multitask=[[0.9, 0.9], [0.83, 0.83], [0.8, 0.8]],
    after=[
        [[0.9, 0.92], [0.25, 0.25], [0.25, 0.25]],
        [[0.1, 0.12], [0.85, 0.85], [0.25, 0.25]],
        [[0.05, 0.05], [0.4, 0.42], [0.8, 0.82]],
    ],
    early=[0.6, 0.62],
    chance=[0.0, 0.25, 0.25],
)


def failing(bed: Outcome, doubled: Outcome | None = None, best_known: dict[str, float] | None = None) -> list[int]:
    """The numbers of the conditions that are not met."""
    conditions = validate(bed, doubled or bed, best_known or {})
    assert [condition.number for condition in conditions] == [1, 2, 3, 4, 5, 6, 7]
    return [condition.number for condition in conditions if not condition.holds]


def replaced(scores: list[list[float]], task: int, values: list[float]) -> list[list[float]]:
    return [values if i == task else row for i, row in enumerate(scores)]


def test_the_table_says_how_early_the_second_task_is_learned() -> None:
    """From 0.25 to 0.85; 0.61 after an eighth of the steps."""
    header, *rows = score_table(GOOD)
    assert header[-1] == "early" and [row[-1] for row in rows] == ["", "60%", ""]


def test_a_stream_that_meets_all_conditions_is_valid() -> None:
    assert failing(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"base": replaced(GOOD.base, 1, [0.31, 0.31])}, 1),  # 6 points above chance
        ({"alone": replaced(GOOD.alone, 2, [0.79, 0.79])}, 2),
        ({"multitask": replaced(GOOD.multitask, 0, [0.85, 0.85])}, 3),  # 6 points below 0.91
        ({"after": [*GOOD.after[:2], replaced(GOOD.after[2], 2, [0.76, 0.76])]}, 4),  # not learned after the others
        ({"after": [*GOOD.after[:2], replaced(GOOD.after[2], 0, [0.2, 0.2])]}, 4),  # 78 % of the gain is lost
        ({"early": [0.54, 0.54]}, 5),  # half of the gain from 0.25 to 0.85 is 0.55
    ],
)
def test_each_condition_can_fail_alone(changes: dict[str, object], number: int) -> None:
    assert failing(dataclasses.replace(GOOD, **changes)) == [number]


def test_twice_the_steps_must_not_move_a_condition() -> None:
    longer = dataclasses.replace(GOOD, early=[0.5, 0.5])
    assert failing(GOOD, doubled=longer) == [6]
    assert failing(longer, doubled=GOOD) == [5, 6]


def test_the_noise_of_the_final_scores_is_limited() -> None:
    """One of the 15 final scores has a standard deviation of 0.07: fewer than 95 % are quiet."""
    noisy = dataclasses.replace(GOOD, multitask=replaced(GOOD.multitask, 0, [0.95, 0.85]))
    assert failing(noisy) == [7]


def test_a_share_of_the_best_known_score_is_enough() -> None:
    weak = dataclasses.replace(
        GOOD, alone=replaced(GOOD.alone, 2, [0.72, 0.72]), multitask=replaced(GOOD.multitask, 2, [0.7, 0.7])
    )
    assert failing(weak, best_known={"code": 0.79}) == []  # 90 % is 0.711
    assert failing(weak, best_known={"code": 0.81}) == [2]
    assert failing(weak, best_known={"law": 0.5}) == [2]


def test_the_runs_are_sequential_multitask_and_each_task_alone_also_twice_as_long() -> None:
    runs = bed_runs(YAMLS / "mnist.yaml", [1, 2], ["dry_run=true"])
    labels = [[run.label for run in group] for group in runs[False]]
    assert [len(group) for group in labels] == [2, 2, 2, 2]
    assert "multitask balanced=True train.max_duration=5ep" in labels[1] and "trained=[1]" in labels[3][0]
    doubled = [group[0].config for group in runs[True]]
    assert [c.train.max_duration for c in doubled] == ["10ep", "10ep", "10ep", "10ep"]
    assert [[task.evaluate_only for task in c.tasks] for c in doubled[2:]] == [[False, True], [True, False]]


def test_a_stream_is_checked_from_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight steps are too few for digits: not valid, with the reasons, and written to a file."""
    small = ["train.max_duration=8ba", "eval.limit=20", f"save_folder={tmp_path / 'runs'}"]
    out = tmp_path / "mnist.md"
    assert command.main([str(YAMLS / "mnist.yaml"), *small, "--seeds", "3", "4", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "not valid" in printed and "not met" in printed
    text = out.read_text()
    assert "| 2 " in text and "With twice the steps" in text and "Seeds [3, 4]" in text and "even" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "at least two seeds"),
        (["--best", "odd=high"], "odd=high is not like"),
        (["trial_duration=2ba", "--seeds", "1", "2"], "must take the same train.max_duration"),
        (["tasks=[digits]", "method=sequential", "--seeds", "1", "2"], "needs two tasks"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command.main([str(YAMLS / "mnist.yaml"), f"save_folder={tmp_path}", *arguments])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2 and message in capsys.readouterr().err
