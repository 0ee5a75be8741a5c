"""The prior suite: tasks of lm-eval, here of a folder, scored as lm-eval's own ``simple_evaluate`` does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from eval import available, general
from eval.evaluator import Evaluations
from eval.kind import Settings
from sfa.config import ConfigError, load
from sfa.data import registered
from sfa.stages.plan import plan
from tests import small
from tests.small import QUICKSTART

SMALL = [*small.SMALL, "train.max_duration=4ba", "eval.limit=20", "eval.interval=2ba", "tasks=[arithmetic,returns]"]
SHOTS = {"num_fewshot": 2, "fewshot_split": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files of two choices, one with examples drawn at random, of a generation, of a perplexity and of a group."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"q": f"{i} and {i % 7} is", "answer": i % 2, "good": f" {i + i % 7}", "text": f"row {i}"} for i in range(30)
    ]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}}
    acc = [{"metric": "acc"}, {"metric": "acc_norm"}]
    choice = {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "answer", "metric_list": acc}
    written = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{good}}"}
    written |= {"generation_kwargs": {"until": ["."], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}]}
    of_text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    means = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    for name, task in {
        "one": {**choice, "doc_to_choice": ["even", "odd"]},
        "shots": {**choice, "doc_to_choice": ["odd", "even"], **SHOTS},
        "written": written,
        "of_text": {**of_text, "metric_list": [{"metric": "bits_per_byte"}]},
    }.items():
        content = {"task": name, **data, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "both.yaml").write_text(
        yaml.safe_dump({"group": "both", "task": ["one", "shots"], "aggregate_metric_list": means})
    )
    (folder / "loose.yaml").write_text(yaml.safe_dump({"group": "loose", "task": ["one", "written"]}))
    (folder / "lost.yaml").write_text(yaml.safe_dump({"task": "lost", **choice, "dataset_path": "nobody/nothing"}))
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a prior suite, and the same without one."""
    runs = tmp_path_factory.mktemp("runs")
    suite = "eval.general=[one,both,of_text]"
    for name, more in (("with", [suite, f"eval.task_folder={folder}"]), ("without", [])):
        arguments = [f"save_folder={runs / name}", "method=wise_ft", f"name={name}", *more]
        assert train.main([QUICKSTART, *SMALL, *arguments]) == 0
    return runs


def results(runs: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((runs / name / name / "results.json").read_text()))


def test_every_model_is_scored_and_the_metrics_of_the_stream_do_not_count_it(runs: Path) -> None:
    with_suite, without = results(runs, "with"), results(runs, "without")
    after = [row["after"] for row in with_suite["general"] if row["evaluation"] == "both"]
    assert after == ["base", "arithmetic", "returns"]
    assert {row["evaluation"] for row in with_suite["general"]} == {"one", "both", "of_text"}
    assert "general" not in without and with_suite["metrics"] == without["metrics"]
    assert with_suite["evaluations"] == without["evaluations"]
    (score,) = [r for r in with_suite["general"] if r["after"] == "base" and r["evaluation"] == "both"]
    assert score["n"] == 40 and score["stderr"] > 0 and len(score["outcomes"]) == 8  # 20 rows of either task
    assert all(row["lower_is_better"] for row in with_suite["general"] if row["evaluation"] == "of_text")


def test_the_prior_suite_changes_no_weights(runs: Path) -> None:
    with_suite, without = results(runs, "with"), results(runs, "without")
    prints = [stage["fingerprint"] for stage in with_suite["stages"]]
    assert prints == [stage["fingerprint"] for stage in without["stages"]]
    for name in prints:
        bits = [
            (runs / run / "stages" / name / "model" / "model.safetensors").read_bytes() for run in ("with", "without")
        ]
        assert bits[0] == bits[1]


def test_it_is_scored_at_the_end_of_a_stage_only_and_is_known_again(
    runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = results(runs, "with")["stages"][0]["fingerprint"]
    rows = json.loads((runs / "with" / "stages" / stage / "evaluations.json").read_text())
    steps = {row["step"] for row in rows if row["evaluation"].startswith("general/")}
    assert steps == {4} and {row["step"] for row in rows} == {2, 4}
    monkeypatch.setattr(general, "answer", None)
    arguments = [f"save_folder={runs / 'with'}", "method=wise_ft", "name=again", "eval.general=[both]"]
    assert train.main([QUICKSTART, *SMALL, *arguments, f"eval.task_folder={folder}"]) == 0
    again = json.loads((runs / "with" / "again" / "results.json").read_text())["general"]
    assert again == [row for row in results(runs, "with")["general"] if row["evaluation"] == "both"]


@pytest.mark.parametrize("name", ["one", "shots", "written", "of_text", "both"])
def test_a_score_is_lm_evals_own(name: str, runs: Path, folder: Path) -> None:
    model_folder = runs / "with" / "stages" / results(runs, "with")["stages"][0]["fingerprint"] / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # so that answers differ between rows
    evaluations = Evaluations([f"general/{name}"], [registered("arithmetic")], Settings(task_folder=folder))
    (score,) = evaluations(model.eval(), tokenizer)
    expected = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=10,
    )["results"][name]
    assert score["value"] == pytest.approx(expected[f"{score['metric']},none"])
    if name != "of_text":
        assert score["stderr"] == pytest.approx(expected[f"{score['metric']}_stderr,none"])
    for metric, value in score.get("also", {}).items():
        assert value == pytest.approx(expected[f"{metric},none"])
    assert evaluations(model, tokenizer) == [score]  # the same examples again


def test_rows_of_two_ranks_give_the_score_of_one(runs: Path, folder: Path) -> None:
    model_folder = runs / "with" / "stages" / results(runs, "with")["stages"][1]["fingerprint"] / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModelForCausalLM.from_pretrained(model_folder)
    evaluations = Evaluations(["general/both"], [registered("arithmetic")], Settings(task_folder=folder))
    (whole,) = evaluations(model.eval(), tokenizer)
    kind = evaluations.kinds["general/both"]
    count = kind.count("general/both")
    parts = [kind.measure(model, tokenizer, {"general/both": list(range(count))[r::2]}) for r in range(2)]
    assert kind.score("general/both", [part["general/both"] for part in parts]) == whole


def test_what_cannot_be_scored_is_an_error_of_the_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = "eval.general=[oen,lost,loose]"
    arguments = [QUICKSTART, suite, f"eval.task_folder={folder}", "dry_run=true"]
    assert train.main(arguments) == 2
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()[1:]]
    assert len(lines) == 3
    assert lines[0].startswith("eval.general: 'oen' is not a task of lm-eval")
    assert lines[1].startswith("eval.general: lost cannot be loaded: ") and "nobody/nothing" in lines[1]
    assert lines[2] == "eval.general: loose stands for several tasks and has no score; name them: one, written"
    with pytest.raises(ConfigError, match=r"eval.task_folder: must be a folder, and nowhere is not one"):
        load(QUICKSTART, ["eval.general=[one]", "eval.task_folder=nowhere"], available)
    mnist = str(Path(QUICKSTART).parent / "mnist.yaml")
    with pytest.raises(ConfigError, match=r"eval.general: is of language models, and this stream is of images"):
        load(mnist, ["eval.general=[one]", f"eval.task_folder={folder}"], available)


def test_a_dry_run_names_the_prior_suite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([QUICKSTART, "eval.general=[one]", f"eval.task_folder={folder}", "dry_run=true"]) == 0
    assert "prior suite: one, before the stream and after each stage" in capsys.readouterr().out
    plain = plan(load(QUICKSTART, [], available))
    scored = plan(load(QUICKSTART, ["eval.general=[one]", f"eval.task_folder={folder}"], available))
    assert [stage.fingerprint for stage in plain] == [stage.fingerprint for stage in scored]
