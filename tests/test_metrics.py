"""The metrics of a stream against independent implementations, and the rows that an average hides.

Avalanche cannot be installed next to the suite, so the functions here are its definitions and those of the papers,
written as loops over evaluations in the order in which they happen.
"""

import math
from typing import Any

import numpy as np
import pytest

from eval.kind import RankResult, in_row_order, mean_score
from scripts import compare, summary
from sfa.outcomes import flips, pack, unpack
from sfa.stages.changes import changes
from sfa.stages.results import general_scores, matrix_text, metrics, summarize

Matrix = Any


def avalanche(base: Matrix, matrix: Matrix) -> dict[str, float]:
    """Avalanche's stream metrics: it keeps, of every experience, the first value after the experience was trained, the
    last value, the value at initialization, and the value right after the previous experience."""
    n = len(base)
    initial, previous, first, last = dict(enumerate(base)), {}, {}, {}
    for trained in range(n):
        for experience in range(n):
            value = matrix[trained][experience]
            if experience == trained + 1:
                previous[experience] = value
            if experience == trained:
                first[experience] = value
            elif experience < trained:
                last[experience] = value
    forgetting = [first[e] - last[e] for e in last]
    forward = [previous[e] - initial[e] for e in previous]
    return {
        "average": sum(matrix[-1]) / n,
        "forgetting": sum(forgetting) / len(forgetting),
        "backward_transfer": -sum(forgetting) / len(forgetting),
        "forward_transfer": sum(forward) / len(forward),
    }


def chaudhry(matrix: Matrix) -> float:
    """Equation 2 and 3 of Chaudhry et al. (2018): F_k = 1/(k−1) Σ_{j<k} max_{l<k} a_lj − a_kj."""
    k = len(matrix)
    return sum(max(matrix[i][j] for i in range(k - 1)) - matrix[k - 1][j] for j in range(k - 1)) / (k - 1)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_avalanches_and_the_papers_on_random_matrices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 8))
    base, matrix = rng.random(n), rng.random((n, n))
    found, expected = metrics(base, matrix), avalanche(base, matrix)
    for name in ("average", "backward_transfer", "forward_transfer"):
        assert found[name] == pytest.approx(expected[name]), name  # type: ignore[literal-required]
    base = np.minimum(base, matrix.min(0))  # as in the paper, which does not count the model before the stream
    assert metrics(base, matrix)["forgetting"] == pytest.approx(chaudhry(matrix))
    at_best = np.minimum(matrix, np.diag(matrix))  # no task is ever better than right after it was learned
    assert metrics(base, at_best)["forgetting"] == pytest.approx(avalanche(base, at_best)["forgetting"])


def test_the_gain_that_is_kept_is_absent_if_nothing_was_gained() -> None:
    assert "gain_kept" not in metrics(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.1, 0.9]]))
    assert metrics(np.zeros(2), np.array([[0.8, 0.0], [0.2, 0.9]]))["gain_kept"] == pytest.approx(0.25)


def test_of_losses_transfers_are_signed_and_the_score_of_new_tasks_is_a_loss() -> None:
    losses = [[3.0, 3.0], [1.0, 2.5], [2.0, 0.5]]
    found = summarize([[("loss", value) for value in row] for row in losses], [True, True])
    assert found is not None and found["new_task_score"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["forward_transfer"] == pytest.approx(0.5) and found["gain_kept"] == pytest.approx(0.5)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 500])
def test_outcomes_take_a_bit_each_and_come_back(n: int) -> None:
    values = np.random.default_rng(n).integers(0, 2, n)
    text = pack(values)
    assert text is not None and len(text) == 4 * math.ceil(math.ceil(n / 8) / 3)
    assert unpack(text, n).tolist() == values.astype(bool).tolist()


@pytest.mark.parametrize("values", [[0.5, 1.0], [[1, 0]], ["a"], [(1, 2), (3,)], [math.nan]])
def test_what_is_neither_right_nor_wrong_has_no_outcomes(values: Any) -> None:
    assert pack(values) is None


def test_outcomes_of_another_number_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bits are not the outcomes of 3 rows"):
        unpack(str(pack([1] * 9)), 3)


def test_mcnemars_p_is_the_exact_binomial_one() -> None:
    before = np.array([True] * 9 + [False] * 3 + [True] * 20)
    after = np.array([False] * 9 + [True] * 3 + [True] * 20)
    lost, gained, p = flips(before, after)
    assert (lost, gained) == (9, 3)
    assert p == pytest.approx(2 * sum(math.comb(12, k) for k in range(4)) / 2**12)
    assert flips(before, before) == (0, 0, 1.0)


def test_rows_of_several_ranks_are_in_one_order() -> None:
    rows = np.arange(7.0)[:, None]
    for ranks in (1, 2, 3):
        assert in_row_order([RankResult(rows[r::ranks]) for r in range(ranks)])[:, 0].tolist() == list(range(7))
    assert "outcomes" not in mean_score("a", "rouge", np.array([0.5, 1.0]))


def run(name: str, lost: int, gained: int, seed: int = 1) -> Any:
    """Results of a stream of two tasks; of 100 rows of the first, all right at first, ``lost`` were lost, and of 100
    rows of the prior suite, all wrong in the base, ``gained`` were gained."""

    def score(after: str, evaluation: str, right: int) -> dict[str, Any]:
        values = np.arange(100) < right
        return {"after": after, **mean_score(evaluation, "acc", values.astype(float))}

    tasks = [{"name": task, "evals": [f"{task}_accuracy"], "evaluate_only": False} for task in "ab"]
    rows = [score("base", f"{task}_accuracy", 0) for task in "ab"]
    rows += [score("a", "a_accuracy", 100), score("a", "b_accuracy", 10)]
    rows += [score("b", "a_accuracy", 100 - lost), score("b", "b_accuracy", 80)]
    general = [score(after, "piqa", gained if after == "b" else 0) for after in ("base", "a", "b")]
    stage = {"method": "sfa", "seconds": 1.0, "peak_bytes": 1, "stored_examples": 0, "l2_from_anchor": 1.0}
    matrix = [[("score", 0.0)] * 2, [("score", 1.0), ("score", 0.1)], [("score", 1 - lost / 100), ("score", 0.8)]]
    return {
        "name": name,
        "seed": seed,
        "config": {"method": "sfa", "tasks": tasks, "name": name, "seed": seed},
        "stages": [{"task": task, **stage} for task in "ab"],
        "evaluations": rows,
        "metrics": summarize(matrix, [True, True]),
        "general": general,
    }


def test_what_changed_since_a_task_was_learned_and_in_the_prior_suite_since_the_base() -> None:
    found = changes(run("x", 20, 6))
    assert {name: (lost, gained) for name, (lost, gained, _) in found.items()} == {
        "a_accuracy": (20, 0),
        "piqa": (0, 6),
    }
    assert found["piqa"].p == pytest.approx(2 / 2**6)
    without = run("x", 20, 6)
    for row in without["evaluations"] + without["general"]:
        del row["outcomes"]  # of an older release
    assert changes(without) == {}


def test_a_comparison_shows_metrics_rows_and_the_prior_suite_apart() -> None:
    lines = {line[0]: line[1] for line in compare.compare([run("x-1", 20, 6, 1), run("x-2", 10, 4, 2)])}
    assert lines["gain kept"] == "0.850 ± 0.635" and lines["new task score"] == "0.900"
    assert lines["forward transfer"] == "0.100" and lines["piqa (prior)"].startswith("0.050 ±")
    assert lines["piqa (prior), change"].startswith("0.050 ±")
    assert lines["a_accuracy, rows lost"].startswith("15 ±") and lines["a_accuracy, rows gained"] == "0"
    assert lines["a_accuracy, McNemar's p"] == f"{2 / 2**20:.2g}, {2 / 2**10:.2g}"
    assert lines["average"] == "0.825 ± 0.318"  # of the stream alone
    assert not any("b_accuracy, " in name for name in lines)  # the last task was just learned


def test_a_table_has_columns_of_the_prior_suite_if_a_run_scored_it() -> None:
    labelled = [("sfa", run("x", 20, 6))]
    line = dict(zip(summary.head(labelled), summary.rows(labelled)[0], strict=True))
    assert (line["prior suite"], line["its change"], line["gain kept"]) == ("0.060", "0.060", "0.800")
    plain = run("x", 20, 6)
    del plain["general"]
    assert "prior suite" not in summary.head([("sfa", plain)])
    lower = run("x", 20, 6)
    for row in lower["general"]:
        row["lower_is_better"] = True
    assert "prior suite" not in summary.head([("sfa", lower)])  # no mean of accuracies and perplexities
    assert general_scores(lower) == {"piqa": (pytest.approx(0.06), pytest.approx(0.06))}


def test_the_matrix_shows_the_prior_suite_below_with_its_change() -> None:
    text = matrix_text(run("x", 20, 6))
    table, _, suite = text.partition("prior suite")
    assert "piqa" not in table and "piqa (acc)" in suite and "piqa +0.060" in suite


def test_results_of_an_older_release_are_compared_without_what_they_lack() -> None:
    old = run("x", 20, 6)
    del old["general"]
    for name in ("forward_transfer", "new_task_score", "gain_kept"):
        del old["metrics"][name]
    old["config"] = {**old["config"], "method": "sequential"}
    lines = {line[0]: line[1:] for line in compare.compare([old, run("y", 20, 6)])}
    assert lines["gain kept"] == ["", "0.800"] and lines["forgetting"] == ["0.200", "0.200"]
    assert summary.head([("old", old)])[1:4] == ["average", "forgetting", "backward transfer"]
    assert "gain kept" not in summary.head([("old", old)])
