"""Every method through the command line on the quickstart's stream, what they share, and rehearsal's mixture."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from eval import available
from scripts import compare, merge, summary
from sfa.config import load
from sfa.data.batches import BatchSchedule, example_count, sample_rows
from sfa.data.packing import IGNORED, Arrays
from sfa.methods import METHODS as REGISTERED
from sfa.stages.callbacks import Stopper
from sfa.stages.plan import Merge, plan, topological_order
from tests import small
from tests.small import QUICKSTART

SMALL = [*small.SMALL, "train.max_duration=8ba", "eval.limit=6", "ewc.examples=5", "fisher.examples=5"]
SMALL += ["der.buffer=4", "sdft.limit=6", "sdft.max_tokens=8"]
METHODS = sorted(REGISTERED)
STORING = {"rehearsal", "agem", "der"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every method ran once."""
    folder = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        arguments = [f"save_folder={folder}", f"method={method}", f"name={method}"]
        assert train.main([QUICKSTART, *SMALL, *arguments]) == 0
    return folder


def results(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name / "results.json").read_text()))


def weights(folder: Path, name: str, stage: int = -1) -> dict[str, torch.Tensor]:
    fingerprint = results(folder, name)["stages"][stage]["fingerprint"]
    return load_file(folder / "stages" / fingerprint / "model" / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_by_one_word_and_says_what_it_cost(method: str, runs: Path) -> None:
    written = results(runs, method)
    assert {stage["method"] for stage in written["stages"][1:]} <= {method}
    for stage in written["stages"]:
        assert min(stage["steps"], stage["seconds"], stage["peak_bytes"], stage["l2_from_anchor"]) > 0
        assert (stage["stored_examples"] > 0) == (stage["method"] in STORING)
    assert written["metrics"] is not None
    if method != "multitask":
        assert [stage["task"] for stage in written["stages"]] == ["arithmetic", "licences", "returns"]


def test_methods_end_in_different_models(runs: Path) -> None:
    ends = {method: results(runs, method)["stages"][-1]["fingerprint"] for method in METHODS}
    assert len(set(ends.values())) == len(METHODS)
    flat = {method: torch.cat([t.flatten() for t in weights(runs, method).values()]) for method in METHODS}
    for method in set(METHODS) - {"sequential", "sdft", "agem"}:
        assert not torch.allclose(flat[method], flat["sequential"], atol=1e-5), method
    assert torch.equal(flat["sdft"], flat["sequential"])  # no response of a model this small keeps its answer
    assert torch.equal(flat["agem"], flat["sequential"])  # nor do gradients conflict in its first steps


def test_the_plan_shares_every_training(runs: Path) -> None:
    """Trainings: sequential 3, multitask 1, O-LoRA 3, twelve methods 2 each, 1 each for WiSE-FT and SLERP, whose second
    task is sequential's, single tasks 2 more; MagMax merges sequential's. Merges: two of WiSE-FT and SLERP each, and of
    Model Stock and OPCM, whose first model is a single task's; three of each of seven on single tasks, and of
    MagMax."""
    kinds = Counter(json.loads(file.read_text())["spec"]["kind"] for file in (runs / "stages").glob("*/manifest.json"))
    assert kinds["base"] == 1
    assert kinds["train"] == 3 + 1 + 3 + 12 * 2 + 2 + 2
    assert kinds["merge"] == 4 * 2 + 7 * 3 + 3
    config = load(QUICKSTART, [*SMALL, "method=task_arithmetic", "task_arithmetic.weights=[0.2,0.3,0.5]"], available)
    new = [stage for stage in topological_order(plan(config)) if not (runs / "stages" / stage.fingerprint).exists()]
    assert all(isinstance(stage, Merge) for stage in new)  # another weight is only merges


def test_sfa_with_p_1_is_wise_ft(runs: Path) -> None:
    arguments = [f"save_folder={runs}", "method=sfa", "sfa.p=1", "name=once"]
    assert train.main([QUICKSTART, *SMALL, *arguments]) == 0
    once, wise = results(runs, "once"), results(runs, "wise_ft")
    assert [s["fingerprint"] for s in once["stages"]] == [s["fingerprint"] for s in wise["stages"]]
    assert [s["merge_steps"] for s in once["stages"]] == [[], [8], [8]]
    assert [s["method"] for s in once["stages"]] == ["sequential", "sfa", "sfa"]


def test_wise_ft_halves_the_way(runs: Path) -> None:
    first, plain, merged = weights(runs, "wise_ft", 0), weights(runs, "sequential", 1), weights(runs, "wise_ft", 1)
    assert all(torch.allclose(merged[n], (first[n] + plain[n]) / 2, atol=1e-7) for n in merged)


def test_task_arithmetic_of_the_streams_models(runs: Path) -> None:
    manifests = [json.loads(file.read_text()) for file in (runs / "stages").glob("*/manifest.json")]
    (base,) = [m for m in manifests if m["spec"]["kind"] == "base"]
    singles = [m for m in manifests if m["parent"] == base["fingerprint"] and m["method"] == "sequential"]
    assert sorted(m["task"] for m in singles) == ["arithmetic", "licences", "returns"]
    tensors = [load_file(runs / "stages" / m["fingerprint"] / "model" / "model.safetensors") for m in (base, *singles)]
    for name, merged in weights(runs, "task_arithmetic").items():
        origin, *others = (t[name].double() for t in tensors)
        expected = origin + sum(other - origin for other in others) / 3
        torch.testing.assert_close(merged.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["ema", "der", "o_lora", "osf", "sdft"])
def test_what_a_method_keeps_outlives_its_process(
    method: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the third task and started again, it ends bitwise in the same model."""
    made = results(runs, method)["stages"][-1]["fingerprint"]
    shutil.copytree(runs / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns(made, "logits-*"))
    arguments = [QUICKSTART, *SMALL, f"save_folder={tmp_path}", f"method={method}", f"name={method}"]
    with monkeypatch.context() as patch:
        stop = lambda self, state, logger: setattr(self, "requested", state.timestamp.batch == 3)  # noqa: E731
        patch.setattr(Stopper, "batch_end", stop)
        assert train.main(arguments) == 130
    assert not (tmp_path / "stages" / made / "manifest.json").exists()
    assert train.main(arguments) == 0
    expected = weights(runs, method)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(tmp_path, method).items())


def test_a_penalty_keeps_the_model_near(runs: Path) -> None:
    def moved(name: str) -> float:
        return float(results(runs, name)["stages"][1]["l2_from_anchor"])

    assert moved("l2") < moved("sequential") and moved("ewc") < moved("sequential")


def packed(n: int, value: int) -> Arrays:
    return {
        "input_ids": np.full((n, 8), value),
        "labels": np.where(np.arange(8) < 1, IGNORED, np.full((n, 8), value)),
        "position_ids": np.tile([0, 1, 2, 3, 0, 1, 2, 0], (n, 1)),
        "tokens": np.full(n, 7),
    }


def test_rehearsal_mixes_past_tasks_evenly_and_the_same_every_time() -> None:
    steps = BatchSchedule([packed(50, 1)], 1000, 8, 3, [packed(30, 2), packed(3, 3)], fraction=0.1)
    drawn = np.array([int(steps[i]["input_ids"][0]) for i in range(8000)])
    assert (drawn != 1).sum() == 800
    assert (drawn[:4000] != 1).sum() == pytest.approx(400, abs=4 * (0.1 * 0.9 * 2000) ** 0.5)
    assert (drawn == 2).sum() / (drawn != 1).sum() == pytest.approx(0.5, abs=4 * 0.5 / (8000 * 0.1) ** 0.5)
    per_batch = (drawn.reshape(1000, 8) != 1).sum(1)
    assert per_batch.min() == 0 and per_batch.max() >= 2  # on average, not exactly
    again = BatchSchedule([packed(50, 1)], 1000, 8, 3, [packed(30, 2), packed(3, 3)], fraction=0.1)
    assert np.array_equal(steps.order, again.order)
    assert not np.array_equal(
        steps.order, BatchSchedule([packed(50, 1)], 1000, 8, 4, [packed(30, 2)], fraction=0.1).order
    )
    first = steps.order[steps.order < 50]
    assert sorted(first[:50]) == list(range(50))  # the task's own sequences still come once an epoch


def test_a_buffer_is_a_seeded_part_whose_examples_are_counted() -> None:
    buffer = sample_rows(packed(50, 1), 10, 0)
    assert len(buffer["input_ids"]) == 10 and example_count(buffer) == 20  # the third start is padding
    assert sample_rows(packed(50, 1), None, 0)["input_ids"].shape == (50, 8)


def test_scripts_merge_writes_a_model_with_a_card(runs: Path, tmp_path: Path) -> None:
    folders = [str(runs / "stages" / results(runs, "sequential")["stages"][i]["fingerprint"] / "model") for i in (0, 1)]
    assert merge.main(["average", *folders, "--beta", "0.5", "--out", str(tmp_path / "out")]) == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in weights(runs, "wise_ft", 1).items())
    assert "average" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        merge.main(["ties", *folders, "--out", str(tmp_path / "other")])


def test_runs_are_compared_side_by_side(runs: Path) -> None:
    names = ["sequential", "sfa", "l2"]
    written = [results(runs, name) for name in names]
    lines = compare.compare(written)
    assert lines[0] == ["", *names]
    cells = {line[0]: line[1:] for line in lines[1:]}
    for name in ("average", "forgetting"):
        assert cells[name] == [f"{run['metrics'][name]:.3f}" for run in written]
    text = compare.markdown([runs / name for name in names], written, "the command")
    assert "`the command`" in text and "`method=sfa seed=17`" in text and "Seeds [17]" in text
    other = {
        **written[1],
        "seed": 18,
        "name": "sfa-18",
        "config": {**written[1]["config"], "seed": 18, "name": "sfa-18"},
    }
    other["metrics"] = {key: value + 0.2 for key, value in written[1]["metrics"].items()}
    head, *rest = compare.compare([{**written[1], "name": "sfa-17"}, other])
    assert head == ["", "sfa, 2 seeds"]
    mean = written[1]["metrics"]["average"] + 0.1
    assert {line[0]: line[1] for line in rest}[
        "average"
    ] == f"{mean:.3f} ± {0.1 * 12.706:.3f}"  # t of one degree of freedom


def test_the_table_of_methods_puts_the_best_average_first(runs: Path) -> None:
    written = [(name, results(runs, name)) for name in ("sequential", "rehearsal", "wise_ft")]
    lines = [line for line in summary.table(written).splitlines() if "|" in line]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    averages = [float(row[1]) for row in rows]
    assert averages == sorted(averages, reverse=True) and len(rows) == 3
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert int(by_name["rehearsal"]["stored examples"]) > 0 == int(by_name["wise_ft"]["stored examples"])


def test_weights_must_fit_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [QUICKSTART, "method=ties", "ties.weights=[0.5,0.5]"]
    assert train.main(arguments) == 2
    assert "ties.weights: must hold one number for each of the 3 tasks, not 2" in capsys.readouterr().err
