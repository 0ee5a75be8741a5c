"""SFA in one process, against Algorithm 1 in a plain loop and against the paper's identities."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from composer import Callback, State, Trainer
from composer.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sfa import SFA, merge_steps
from sfa.trainers.finite import Finite
from sfa.trainers.penalty import Penalty
from tests.toy import BATCH, Regression, data, reference, saver_every_step, trainer, weights

STEPS = 23  # divisible by no p·T of the list below


def fitted(model: Regression, sfa: SFA, steps: int = STEPS, kind: str = "sgd", **more: Any) -> dict[str, Any]:
    fit = trainer(model, steps, [sfa], kind, **more)
    fit.fit()
    fit.close()
    return weights(model)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("p", [1, 0.98, 0.75, 0.5, 0.25, 0.17, 0.1])
def test_equals_algorithm_1_in_a_plain_loop(p: float, beta: float, kind: str) -> None:
    sfa = SFA(p=p, beta=beta)
    ours = fitted(Regression(), sfa, kind=kind)
    theirs = reference(Regression(), STEPS, p, beta, kind)
    assert [int(m["step"]) for m in sfa.merges] == merge_steps(STEPS, p)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-6)


def test_beta_1_gives_the_anchor_bit_for_bit() -> None:
    for name, weight in fitted(Regression(), SFA(p=0.5, beta=1)).items():
        assert torch.equal(weight, weights(Regression())[name])


def test_resetting_the_optimizer_equals_a_new_optimizer_after_each_merge() -> None:
    ours = fitted(Regression(), SFA(p=0.25, reset_optimizer_on_merge=True), kind="adamw")
    theirs = reference(Regression(), STEPS, 0.25, 0.5, "adamw", reset_optimizer=True)
    kept = reference(Regression(), STEPS, 0.25, 0.5, "adamw")
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-6)
        assert not torch.allclose(kept[name], expected, atol=1e-4)


def test_merging_after_every_sgd_step_is_l2_regression() -> None:
    """Eqs. 3 and 7: β = ηλ and α = η/(1−ηλ) give the iterates of SGD with an L2 penalty towards θ_o."""
    eta, lam = 0.1, 0.7
    x, y = data(STEPS, torch.float64)
    penalized = Regression(dtype=torch.float64)
    theta_o = weights(penalized)
    iterates = []
    for t in range(STEPS):
        part = slice(t * BATCH, (t + 1) * BATCH)
        loss = nn.functional.mse_loss(penalized.net(x[part]), y[part])
        gradients = torch.autograd.grad(loss, list(penalized.parameters()))
        with torch.no_grad():
            for (name, theta), gradient in zip(penalized.named_parameters(), gradients, strict=True):
                theta.sub_(eta * (gradient + lam * (theta - theta_o[name])))
        iterates.append(weights(penalized))

    seen: list[dict[str, Any]] = []

    class Watch(Callback):
        def batch_end(self, state: State, logger: Logger) -> None:
            seen.append(weights(state.model))

    model = Regression(dtype=torch.float64)
    sgd = torch.optim.SGD(model.parameters(), lr=eta / (1 - eta * lam))
    fitted(model, SFA(every="1ba", beta=eta * lam), optimizers=sgd, callbacks=[Watch()])
    for ours, theirs in zip(seen, iterates, strict=True):
        for name, expected in theirs.items():
            torch.testing.assert_close(ours[name], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("max_duration", "interval", "merges"),
    [
        ("1ep", {"p": 0.5}, [12, 23]),
        ("2ep", {"p": 0.5}, [23, 46]),
        ("10ba", {"p": 0.25}, [3, 5, 8, 10]),
        ("40sp", {"p": 0.25}, [3, 5, 8, 10]),
        ("10ba", {"every": "5ba"}, [5, 10]),
        ("10ba", {"every": "4ba"}, [4, 8, 10]),
        ("10ba", {"every": "0.25dur"}, [3, 5, 8, 10]),
        ("2ep", {"every": "1ep"}, [23, 46]),
        ("30ba", {"every": "1ep"}, [23, 30]),
        ("40tok", {"p": 0.5}, [5, 10]),
        ("10ba", {"every": "12tok"}, [3, 6, 9, 10]),
    ],
)
def test_every_kind_of_duration_and_interval(max_duration: str, interval: dict[str, Any], merges: list[int]) -> None:
    """With batches of 4 samples and 4 tokens. The end is merged exactly once."""
    from composer.core import DataSpec

    model, sfa = Regression(), SFA(**interval)
    loader = DataLoader(TensorDataset(*data(STEPS)), batch_size=BATCH)
    fit = Trainer(
        model=model,
        train_dataloader=DataSpec(loader, get_num_tokens_in_batch=lambda batch: len(batch[0])),
        max_duration=max_duration,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        algorithms=[sfa],
        device="cpu",
        progress_bar=False,
    )
    fit.fit()
    fit.close()
    assert [int(m["step"]) for m in sfa.merges] == merges


class StopAt(Callback):
    """Stops training at a step, at the event named, as an early stopper would."""

    def __init__(self, event: str, step: int):
        setattr(self, event, lambda state, logger: state.stop_training() if state.timestamp.batch == step else None)


@pytest.mark.parametrize("event", ["batch_start", "batch_end"])
def test_stopped_early_the_last_step_is_merged_once_and_the_checkpoint_holds_it(event: str, tmp_path: Path) -> None:
    sfa, step = SFA(p=0.5), 7
    saver = saver_every_step(tmp_path, STEPS)
    stop = StopAt(event, step if event == "batch_end" else step - 1)
    model = Regression()
    final = fitted(model, sfa, callbacks=[stop, saver])
    assert [int(m["step"]) for m in sfa.merges] == [step]
    saved = torch.load(tmp_path / f"ep0-ba{step}.pt", weights_only=False)["state"]["model"]
    for name, weight in final.items():
        assert torch.equal(saved[name], weight)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("anchor", ["start", "folder"])
def test_interrupted_anywhere_and_resumed_is_bitwise_the_same(kind: str, anchor: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    steps, merges = 12, [3, 6, 9, 12]
    theta_o = None
    if anchor == "folder":
        theta_o = str(tmp_path / "anchor")
        Path(theta_o).mkdir()
        save_file(weights(Regression(seed=5)), f"{theta_o}/model.safetensors")
    sfa = SFA(p=0.25, anchor=theta_o)
    whole = fitted(Regression(), sfa, steps, kind, callbacks=[saver_every_step(tmp_path, steps)])
    assert [int(m["step"]) for m in sfa.merges] == merges
    for step in (1, 2, 3, 4, 8, 9, 11):  # before, at and after a merge
        resumed = SFA(p=0.25, anchor=theta_o)
        ours = fitted(Regression(), resumed, steps, kind, load_path=str(tmp_path / f"ep0-ba{step}.pt"))
        assert [int(m["step"]) for m in resumed.merges] == merges
        for name, expected in whole.items():
            assert torch.equal(ours[name], expected), (step, name)


def test_resuming_with_another_anchor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    fitted(Regression(), SFA(p=0.5), 12, callbacks=[saver_every_step(tmp_path, 12)])
    checkpoint = str(tmp_path / "ep0-ba5.pt")
    with pytest.raises(ValueError, match="anchor of the resumed fit is not the one"):
        fitted(Regression(seed=1), SFA(p=0.5), 12, load_path=checkpoint)

    save_file(weights(Regression(seed=1)), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is a different one, or its files have changed"):
        fitted(Regression(), SFA(p=0.5, anchor=str(tmp_path)), 12, load_path=checkpoint)


def test_the_checkpoint_keeps_what_composer_itself_keeps_of_an_algorithm() -> None:
    for algorithm in (SFA(p=0.5), Penalty("l2", 0.1), Finite()):
        assert algorithm.state_dict()["repr"] == repr(algorithm)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_a_penalty_resumed_with_another_anchor_is_refused(kind: Literal["l1", "l2"], tmp_path: Path) -> None:
    whole = Regression()
    fit = trainer(whole, 12, [Penalty(kind, 0.1)], callbacks=[saver_every_step(tmp_path, 12)])
    fit.fit()
    fit.close()
    checkpoint = str(tmp_path / "ep0-ba5.pt")
    fit = trainer(Regression(seed=1), 12, [Penalty(kind, 0.1)], load_path=checkpoint)
    with pytest.raises(ValueError, match="anchor of the resumed fit is not the one"):
        fit.fit()
    fit.close()
    again = Regression()
    fit = trainer(again, 12, [Penalty(kind, 0.1)], load_path=checkpoint)
    fit.fit()
    fit.close()
    assert all(torch.equal(weights(again)[name], weight) for name, weight in weights(whole).items())


def test_weights_loaded_alone_are_the_anchor_of_sfa_and_of_a_penalty(tmp_path: Path) -> None:
    """They are those at the start of the fit."""
    fitted(Regression(), SFA(p=0.5), 12, callbacks=[saver_every_step(tmp_path, 12)])
    checkpoint = tmp_path / "ep0-ba5.pt"
    start = torch.load(checkpoint, weights_only=False)["state"]["model"]
    for algorithm in (SFA(p=1, beta=1), Penalty("l2", 0.1)):
        model = Regression(seed=1)
        fit = trainer(model, 12, [algorithm], load_path=str(checkpoint), load_weights_only=True)
        fit.fit()
        fit.close()
        anchor = algorithm.averager.anchor if isinstance(algorithm, SFA) else algorithm._pulls[0][0]
        assert anchor is not None
        assert all(torch.equal(shard, start[name]) for name, shard in anchor.shards.items())


def test_the_checkpoint_does_not_hold_the_anchor(tmp_path: Path) -> None:
    sizes = {}
    for name, algorithms in {"plain": [], "sfa": [SFA(p=0.25)]}.items():
        fit = trainer(Regression(hidden=5000), 4, algorithms, callbacks=[saver_every_step(tmp_path / name, 4)])
        fit.fit()
        fit.close()
        sizes[name] = (tmp_path / name / "ep0-ba3.pt").stat().st_size
    assert sizes["sfa"] - sizes["plain"] < 4000  # the model alone is 160 kB


def test_a_second_fit_averages_with_the_weights_it_started_from() -> None:
    """As with three tasks: θ_o of the next task is the merged model of this one."""
    model, sfa = Regression(), SFA(p=0.5)
    fit = trainer(model, 10, [sfa], max_duration="10ba")
    fit.fit()
    fit.fit(duration="10ba")
    fit.close()
    assert [int(m["step"]) for m in sfa.merges] == [15, 20]
    again = Regression()
    reference(again, 10, 0.5, 0.5, "sgd")
    for name, expected in reference(again, 10, 0.5, 0.5, "sgd").items():
        torch.testing.assert_close(weights(model)[name], expected, rtol=0, atol=1e-6)


def test_frozen_parameters_and_buffers_are_left_alone() -> None:
    model = Regression()
    model.net[0].weight.requires_grad_(False)
    sfa = SFA(p=1)
    fit = trainer(model, 5, [sfa])
    model.scale.fill_(3.0)
    fit.fit()
    fit.close()
    assert torch.equal(model.net[0].weight, Regression().net[0].weight)
    assert model.scale.item() == 3.0
    assert sfa.averager.anchor is not None and "net.0.weight" not in sfa.averager.anchor.shards


def test_logged_norms_are_those_of_the_whole_model() -> None:
    model, sfa = Regression(), SFA(p=1, beta=0.25)
    final = fitted(model, sfa)
    moved = sum(((final[n] - w).double() ** 2).sum() for n, w in weights(Regression()).items()) ** 0.5
    (merge,) = sfa.merges
    assert merge["l2_after"] == pytest.approx(float(moved), rel=1e-6)
    assert merge["l2_before"] == pytest.approx(float(moved) / 0.75, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either p or every"),
        ({"p": 0.5, "every": "5ba"}, "either p or every"),
        ({"p": 0}, r"\(0, 1\]"),
        ({"p": 1.5}, r"\(0, 1\]"),
        ({"p": 0.5, "beta": -0.1}, r"\[0, 1\]"),
        ({"p": 0.5, "anchor_device": "disk"}, "anchor_device"),
        ({"every": "0ba"}, "positive"),
        ({"every": "5sec"}, "every counts"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFA(**arguments)


def test_bfloat16_master_weights_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"net\.0\.weight is torch\.bfloat16: keep the parameters in float32"):
        trainer(Regression(dtype=torch.bfloat16), 4, [SFA(p=0.5)])


@pytest.mark.parametrize("wrong", ["missing", "shape", "empty"])
def test_an_anchor_that_does_not_fit_is_refused(wrong: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = weights(Regression(hidden=7 if wrong == "shape" else 15))
    if wrong == "missing":
        del tensors["net.2.bias"]
    if wrong != "empty":
        save_file(tensors, tmp_path / "model.safetensors")
    message = {"missing": "lacks .*net.2.bias", "shape": "net.0.weight", "empty": "no safetensors files"}[wrong]
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=message):
        fitted(Regression(), SFA(p=0.5, anchor=str(tmp_path)))


def test_an_epoch_without_length_is_refused() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from TensorDataset(*data(3))

    model = Regression()
    fit = Trainer(
        model=model,
        train_dataloader=DataLoader(Stream(), batch_size=BATCH),
        max_duration="3ba",
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        algorithms=[SFA(every="1ep")],
        device="cpu",
        progress_bar=False,
    )
    with pytest.raises(ValueError, match="dataloader has no length"):
        fit.fit()
    fit.close()


def test_loads_by_name_through_the_llm_foundry_entry_point() -> None:
    from importlib.metadata import entry_points

    (entry,) = [e for e in entry_points(group="llmfoundry_algorithms") if e.name == "sfa"]
    assert entry.load() is SFA
