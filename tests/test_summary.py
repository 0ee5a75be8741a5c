"""Tables of sweeps: the best run first and signs that the footnotes state, for scores and for losses."""

import math
from typing import Any

import pytest

from scripts import compare, summary
from scripts.series import bounds
from sfa.stages.results import is_loss, matrix_text, summarize


def run(finals: list[float], before: list[float], metric: str = "loss", method: str = "sfa") -> dict[str, Any]:
    """Results of a stream of two tasks: ``before`` are the scores after the first, ``finals`` after the second."""
    suffix = "_loss" if metric == "loss" else ""
    tasks = [{"name": name, "evals": [f"{name}{suffix}"], "evaluate_only": False} for name in ("a", "b")]
    scores = {"base": [3.0, 3.0] if metric == "loss" else [0.0, 0.0], "a": before, "b": finals}
    rows = [
        {"after": after, "evaluation": f"{name}{suffix}", "metric": metric, "value": value, "stderr": None, "n": 9}
        | ({"lower_is_better": True} if metric == "loss" else {})
        for after, values in scores.items()
        for name, value in zip("ab", values, strict=True)
    ]
    stage = {"method": method, "seconds": 1.0, "peak_bytes": 1, "stored_examples": 0, "l2_from_anchor": 1.0}
    stages = [{"task": name, **stage} for name in ("a", "b")]
    content = {"name": "x", "seed": 1, "config": {"tasks": tasks}, "stages": stages, "evaluations": rows}
    kind = "loss" if metric == "loss" else "score"
    return {**content, "metrics": summarize([[(kind, v) for v in values] for values in scores.values()], [True, True])}


def test_losses_list_the_lowest_first_and_forgetting_is_their_rise() -> None:
    good, bad = run([1.0, 0.5], [0.9, 3.0]), run([2.5, 0.3], [0.9, 3.0])
    assert is_loss(good) and good["metrics"]["average"] == pytest.approx(0.75)
    assert good["metrics"]["forgetting"] == pytest.approx(0.1) and bad["metrics"]["forgetting"] == pytest.approx(1.6)
    assert good["metrics"]["backward_transfer"] == pytest.approx(-0.1)
    labelled = [("bad", bad), ("good", good)]
    assert [line[0] for line in summary.rows(labelled)] == ["good", "bad"]
    assert summary.head(labelled)[1] == "average loss" and summary.rows(labelled)[0][1] == "0.750"
    assert "average loss = −1/n · Σⱼ aₙⱼ" in summary.table(labelled) and "average loss 0.750" in matrix_text(good)
    assert "average loss" in [line[0] for line in compare.compare([{**good, "config": good["config"]}])]


def test_scores_list_the_highest_first_and_what_diverged_last() -> None:
    good, bad = (run([x, 0.5], [0.9, 0.1], metric="acc") for x in (0.8, 0.2))
    broken, without = run([math.nan, 0.5], [0.9, 0.1], metric="acc"), {**good, "metrics": None}
    labelled = [("without", without), ("broken", broken), ("bad", bad), ("good", good)]
    assert [line[0] for line in summary.rows(labelled)] == ["good", "bad", "without", "broken"]
    assert summary.head(labelled)[1] == "average"


def test_the_best_single_task_model_has_the_lowest_loss() -> None:
    results = [
        ({"method": "sequential", f"tasks.{i}.evaluate_only": True}, [run([loss, 1.0], [1.0, 1.0])])
        for i, loss in enumerate([2.0, 1.5])
    ]
    assert bounds(results, {"A": ["a_loss"]}) == (3.0, 1.5)


def test_a_task_that_is_never_trained_counts_only_in_the_average() -> None:
    rows = [[0.1, 0.2, 0.3], [0.9, 0.2, 0.2], [0.5, 0.1, 0.8]]
    metrics = summarize([[("score", value) for value in row] for row in rows], [True, False, True])
    assert metrics is not None and metrics["average"] == pytest.approx((0.5 + 0.1 + 0.8) / 3)
    assert metrics["forgetting"] == pytest.approx(0.9 - 0.5) and metrics["backward_transfer"] == pytest.approx(
        0.5 - 0.9
    )


def test_differences_to_a_baseline_are_paired_by_seed_and_order() -> None:
    """Each seed's own difference, whatever the seeds have in common: 0.1, 0.1 and 0.2 of the average."""
    finals = {1: 0.2, 2: 0.5, 3: 0.8}
    better = {1: 0.1, 2: 0.1, 3: 0.2}
    runs = []
    for seed, final in finals.items():
        for label, more in (("plain", 0.0), ("better", 2 * better[seed])):
            results = run([final + more, 0.5], [0.9, 0.1], metric="acc")
            runs.append((label, {**results, "seed": seed}))
    once = {**run([0.9, 0.9], [0.9, 0.1], metric="acc"), "seed": 3}
    runs.append(("once", once))
    runs.append(("reversed", {**once, "config": {**once["config"], "tasks": once["config"]["tasks"][::-1]}}))
    header, *lines = summary.differences(runs, "plain")
    assert header == ["method", "average", "new task score", "gain kept", "a", "b", "pairs"]
    found = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}
    assert list(found) == ["once", "reversed", "better"]
    mean, half = 0.4 / 3, 4.302653 * math.sqrt(1 / 300) / math.sqrt(3)  # Student's t, two degrees of freedom
    assert found["better"]["average"] == f"+{mean:.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
    assert found["better"]["b"] == "+0.000 [+0.000, +0.000]" and found["better"]["pairs"] == "3"
    assert found["once"]["a"] == "+0.100" and found["once"]["pairs"] == "1"
    assert set(found["reversed"].values()) == {"–", "0"}
    assert "Less plain, paired by seed and order of tasks" in summary.table(runs, "plain")
    assert "paired" not in summary.table(runs)
    assert "Less plain" in summary.terminal_table(runs, 100, "plain")
