"""SFACallback: transformers' Trainer ends where Algorithm 1 in a plain loop ends, whatever the Trainer does besides."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EarlyStoppingCallback, LlamaForCausalLM, TrainerCallback

from sfa import merge_steps
from sfa.huggingface import SFACallback
from tests.tiny import BETA, P, T, algorithm_1, assert_close, model, rows, weights
from tests.tiny_trainer import steps, trainer
from tests.trainer_cases import Cell, cells

PLAIN = cells(Cell("Trainer", "one process"))


class Recorder(TrainerCallback):
    """Notes the weights at events, and what is logged; listed before SFA, as the Trainer's own loggers are."""

    def __init__(self) -> None:
        self.evaluated: dict[int, dict[str, Tensor]] = {}
        self.logs: list[dict[str, Any]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.evaluated[state.global_step] = weights(model)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(logs)


class StopAt(TrainerCallback):
    """Stops the training at a step, like a limit of time."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def saved(folder: Path, step: int) -> dict[str, Tensor]:
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("beta", [0.25, 0.5])
@pytest.mark.parametrize("p", [1, 0.5, pytest.param(0.3, marks=PLAIN)])
def test_it_is_algorithm_1(p: float, beta: float, accumulation: int, kind: str, tmp_path: Path) -> None:
    network, callback = model(), SFACallback(p=p, beta=beta)
    trainer(network, tmp_path, [callback], kind, accumulation).train()
    assert steps(callback) == merge_steps(T, p)
    assert_close(weights(network), algorithm_1(model(), p, beta, kind, accumulation))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": -1, "num_train_epochs": 1},
        {"gradient_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_the_trainers_settings_change_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    network, callback = model(), SFACallback(p=P, beta=BETA)
    trainer(network, tmp_path, [callback], **settings).train()
    assert steps(callback) == merge_steps(T, P)
    assert_close(weights(network), algorithm_1(model()))


@pytest.mark.parametrize(
    ("every", "settings", "expected"),
    [
        ("4ba", {}, [4, 8, 10]),
        ("1ep", {"max_steps": 12}, [10, 12]),
        ("20sp", {"gradient_accumulation_steps": 2}, [5, 10]),  # 4 rows a step
        ("100tok", {"include_num_input_tokens_seen": "all"}, [5, 9, 10]),  # 24 tokens a step
    ],
)
def test_merges_are_counted_in_any_unit(
    every: str, settings: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    callback = SFACallback(every=every)
    settings = {**settings, "per_device_train_batch_size": 4 // settings.get("gradient_accumulation_steps", 1)}
    trainer(model(), tmp_path, [callback], **settings).train()
    assert steps(callback) == expected
    if every.endswith("tok"):
        with pytest.raises(ValueError, match="set include_num_input_tokens_seen"):
            trainer(model(), tmp_path, [SFACallback(every=every)]).train()


def test_evaluations_and_checkpoints_of_a_step_are_of_merged_weights(tmp_path: Path) -> None:
    network, callback, recorder = model(), SFACallback(p=0.5), Recorder()
    settings = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
    trainer(network, tmp_path, [recorder, callback], **settings).train()
    half = algorithm_1(model(), p=1, steps=5)
    for step, expected in ((5, half), (10, algorithm_1(model(), p=0.5))):
        assert_close(recorder.evaluated[step], expected)
        assert_close(saved(tmp_path, step), expected)
    assert_close(weights(LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-10")), weights(network), 0)


def test_the_distance_goes_to_the_trainers_loggers(tmp_path: Path) -> None:
    callback, recorder = SFACallback(p=0.5), Recorder()
    fit = trainer(model(), tmp_path, [recorder, callback], save_strategy="steps", save_steps=10)
    fit.train()
    expected = [merge["l2_before"] for merge in callback.averager.merges]
    stored = json.loads((tmp_path / "checkpoint-10" / "trainer_state.json").read_text())
    for logged in (recorder.logs, fit.state.log_history, stored["log_history"]):
        assert [entry["sfa/l2_before"] for entry in logged if "sfa/l2_before" in entry] == expected
        assert all(entry["sfa/l2_after"] == entry["sfa/l2_before"] / 2 for entry in logged if "sfa/l2_after" in entry)


@pytest.mark.parametrize("order", [0, 1])
def test_a_training_that_is_stopped_is_merged_before_its_last_save(order: int, tmp_path: Path) -> None:
    network, callback, recorder = model(), SFACallback(p=P), Recorder()
    callbacks = [callback, StopAt(5)] if order else [StopAt(5), callback]
    settings = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
    trainer(network, tmp_path, [recorder, *callbacks], **settings).train()
    assert steps(callback) == [3, 5]
    assert_close(saved(tmp_path, 5), weights(network), 0)
    assert_close(recorder.evaluated[5], weights(network), 0)


@pytest.mark.parametrize("unit", ["steps", "epoch"])
def test_early_stopping_saves_a_merged_model_last(unit: str, tmp_path: Path) -> None:
    """With a metric that never improves, it stops at the second evaluation."""
    network, callback = model(), SFACallback(p=0.75)
    settings: dict[str, Any] = {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    settings |= {"save_strategy": unit, "eval_strategy": unit, "save_steps": 2, "eval_steps": 2, "max_steps": 40}
    fit = trainer(network, tmp_path, [callback, EarlyStoppingCallback(1)], data=rows(2), **settings)
    fit.train()
    assert fit.state.global_step == 4
    assert steps(callback) == [4]
    assert_close(saved(tmp_path, 4), weights(network), 0)


@pytest.mark.parametrize("best", [2, 5])
def test_the_best_model_is_returned_as_it_was_saved(
    best: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is merged after it was loaded, and a best step without a merge is reported."""
    network, callback = model(), SFACallback(p=0.5)
    settings: dict[str, Any] = {"metric_for_best_model": "eval_score", "load_best_model_at_end": True}
    settings |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    fit = trainer(network, tmp_path, [callback], **settings)
    fit.compute_metrics = lambda found: {"score": float(fit.state.global_step == best)}
    fit.train()
    assert steps(callback) == [5, 10]
    assert_close(weights(network), saved(tmp_path, best), 0)
    assert ("of step 2, was not saved right after a merge (5, 10)" in caplog.text) == (best == 2)


class StopAfterSave(TrainerCallback):
    """Stops the training when no event but its end follows."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


@pytest.mark.parametrize("best", [False, True])
def test_a_stop_after_the_last_save_is_merged_and_reported(
    best: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But not into a best model that was reloaded."""
    network, callback = model(), SFACallback(p=0.75)
    settings: dict[str, Any] = {"metric_for_best_model": "eval_loss", "load_best_model_at_end": best}
    settings |= {"save_strategy": "epoch", "eval_strategy": "epoch", "max_steps": 40}
    trainer(network, tmp_path, [callback, StopAfterSave()], data=rows(2), **settings).train()
    before = algorithm_1(model(), p=1, beta=0, steps=2)
    assert_close(saved(tmp_path, 2), before)
    assert steps(callback) == ([] if best else [2])
    assert_close(weights(network), before if best else algorithm_1(model(), p=1, steps=2))
    assert ("SFA's final merge is in the model, but in no checkpoint" in caplog.text) != best


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("source", ["start", "folder"])
def test_interrupted_before_at_and_after_a_merge_and_resumed_is_bitwise_the_same(
    source: str, kind: str, at: int, tmp_path: Path
) -> None:
    anchor = None
    if source == "folder":
        model(seed=3).save_pretrained(tmp_path / "anchor")
        anchor = str(tmp_path / "anchor")
    whole, again = model(), model()
    saving = {"save_strategy": "steps", "save_steps": 1}
    first = SFACallback(p=P, anchor=anchor)
    trainer(whole, tmp_path, [first], kind, **saving).train()
    callback = SFACallback(p=P, anchor=anchor)
    fit = trainer(again, tmp_path / "again", [callback], kind, **saving)
    fit.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert steps(callback) == steps(first) == merge_steps(T, P)
    assert_close(weights(again), weights(whole), 0)
    theta_o = weights(model(seed=3)) if anchor else None
    assert_close(weights(again), algorithm_1(model(), kind=kind, theta_o=theta_o))


@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_beta_that_falls_falls_on_after_an_interruption(at: int, tmp_path: Path) -> None:
    falling: dict[str, Any] = {"p": P, "beta": 0.75, "beta_end": 0.25}
    whole, again, saving = model(), model(), {"save_strategy": "steps", "save_steps": 1}
    first, callback = SFACallback(**falling), SFACallback(**falling)
    trainer(whole, tmp_path, [first], **saving).train()
    fit = trainer(again, tmp_path / "again", [callback], **saving)
    fit.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    for merges in (first.averager.merges, callback.averager.merges):
        assert [merge["beta"] for merge in merges] == pytest.approx([9 / 12, 7 / 12, 5 / 12, 3 / 12])
        for merge in merges:
            assert merge["l2_after"] == pytest.approx((1 - merge["beta"]) * merge["l2_before"], rel=1e-5)
    assert_close(weights(again), weights(whole), 0)


def test_a_resumed_fit_with_another_anchor_is_refused(tmp_path: Path) -> None:
    network = model()
    trainer(network, tmp_path, [SFACallback(p=P)], save_strategy="steps", save_steps=5).train()
    trainer(model(), tmp_path / "without", [], save_strategy="steps", save_steps=5).train()
    model(seed=3).save_pretrained(tmp_path / "other")
    checkpoint = str(tmp_path / "checkpoint-5")
    told = r"Pass anchor=<folder of the model, or of the adapters, that the training started from>"
    for wrong, callback in ((network, SFACallback(p=P)), (model(), SFACallback(p=P, anchor=str(tmp_path / "other")))):
        with pytest.raises(ValueError, match=rf"is not the one .*{told}"):
            trainer(wrong, tmp_path, [callback]).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=rf"written without SFA.*{told}"):
        trainer(model(), tmp_path, [SFACallback(p=P)]).train(
            resume_from_checkpoint=str(tmp_path / "without" / "checkpoint-5")
        )


def test_a_checkpoint_without_sfa_is_continued_with_a_given_anchor(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "start")
    trainer(model(), tmp_path, [], save_strategy="steps", save_steps=1, max_steps=2).train()
    network, callback = model(), SFACallback(p=P, anchor=str(tmp_path / "start"))
    fit = trainer(network, tmp_path / "again", [callback], save_strategy="steps", save_steps=5)
    fit.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_close(weights(network), algorithm_1(model()))  # as if it had been there from the start


def test_every_call_of_train_is_a_training_of_its_own(tmp_path: Path) -> None:
    network, callback = model(), SFACallback(p=P)
    fit = trainer(network, tmp_path, [callback])
    expected = model()
    for _ in range(2):
        fit.train()
        assert steps(callback) == merge_steps(T, P)
        expected.load_state_dict(algorithm_1(expected))
    assert_close(weights(network), weights(expected))


@pytest.mark.parametrize("cell", [pytest.param(None, marks=cells(Cell("Trainer", "one process", precision="bf16")))])
def test_weights_in_16_bits_end_within_their_precision(cell: None, tmp_path: Path) -> None:
    network, callback = model(dtype=torch.bfloat16), SFACallback(p=0.1)
    trainer(network, tmp_path, [callback]).train()
    assert_close(weights(network), algorithm_1(model(), p=0.1), 4e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, 1e-6, marks=cells(Cell("Trainer", "one process", "LoRA"))),
        pytest.param(torch.bfloat16, 4e-3, marks=cells(Cell("Trainer", "one process", "LoRA", "bf16"))),
    ],
)
def test_adapters_are_merged_and_what_is_frozen_is_not(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    network, callback = model(dtype=dtype, lora=True), SFACallback(p=P)
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    trainer(network, tmp_path, [callback]).train()
    assert_close(weights(network), algorithm_1(model(lora=True)), tolerance)
    assert all(torch.equal(network.get_parameter(name), before) for name, before in frozen.items())


def test_adapters_go_on_from_a_folder(tmp_path: Path) -> None:
    """Next month's training, with θ_o from the folder of last month's adapters."""
    model(seed=3, lora=True).save_pretrained(tmp_path / "last")
    network, callback = model(lora=True), SFACallback(p=P, anchor=str(tmp_path / "last"))
    trainer(network, tmp_path, [callback]).train()
    assert_close(weights(network), algorithm_1(model(lora=True), theta_o=weights(model(seed=3, lora=True))))


def test_importing_it_brings_neither_composer_nor_datasets() -> None:
    code = "import sys, sfa.huggingface; print([m for m in ('composer', 'datasets', 'omegaconf') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
