"""SFA's options against plain loops: the merge at the end, β by tensor and over merges, moments, bounds and anchors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import train
from sfa import SFA, Averager
from sfa.config import ConfigError, load
from sfa.methods import METHODS
from sfa.stages.plan import plan
from tests import small
from tests.small import QUICKSTART
from tests.toy import BATCH, Regression, data, optimizer, saver_every_step, trainer, weights

STEPS = 12
SMALL = [*small.SMALL, "train.max_duration=6ba", "eval.limit=4", "eval.tasks=[returns]"]
Tensors = dict[str, Tensor]
Decide = Callable[[int, Tensors, Tensors], dict[str, float] | None]  # β by name after a step, of θ and θ_o


def fitted(sfa: SFA, kind: str = "sgd", **more: Any) -> Tensors:
    model = Regression()
    fit = trainer(model, STEPS, [sfa], kind, **more)
    fit.fit()
    fit.close()
    return weights(model)


def loop(decide: Decide, kind: str = "sgd", theta_o: Tensors | None = None, moments: bool = False) -> Tensors:
    """θ ← β·θ_o + (1−β)·θ, tensor by tensor, where ``decide`` gives a β; ``moments``: m ← (1−β)·m too."""
    model = Regression()
    x, y = data(STEPS)
    theta_o = theta_o or weights(model)
    opt = optimizer(model, kind)
    for t in range(1, STEPS + 1):
        part = slice((t - 1) * BATCH, t * BATCH)
        opt.zero_grad()
        nn.functional.mse_loss(model.net(x[part]), y[part]).backward()
        opt.step()
        betas = decide(t, weights(model), theta_o)
        for name, parameter in model.named_parameters() if betas else ():
            assert betas is not None
            beta = betas[name]
            with torch.no_grad():
                parameter.copy_(beta * theta_o[name] + (1 - beta) * parameter)
            for key in ("exp_avg", "exp_avg_sq", "momentum_buffer") if moments else ():
                if key in opt.state[parameter]:
                    opt.state[parameter][key] *= 1 - beta
    return weights(model)


def after(steps: dict[int, float]) -> Decide:
    """The same β for every tensor, after some steps."""
    return lambda t, theta, theta_o: dict.fromkeys(theta, steps[t]) if t in steps else None


def same(ours: Tensors, theirs: Tensors) -> None:
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("interval", "steps"), [({"p": 0.25}, [3, 6, 9]), ({"p": 0.3}, [4, 8, 11]), ({"every": "5ba"}, [5, 10])]
)
def test_without_the_merge_at_the_end(interval: dict[str, Any], steps: list[int]) -> None:
    sfa = SFA(**interval, at_end=False)
    same(fitted(sfa), loop(after(dict.fromkeys(steps, 0.5))))
    assert [merge["step"] for merge in sfa.merges] == steps
    averager = Averager(model := Regression(), STEPS, **interval, at_end=False)  # counts steps on its own
    for _ in range(STEPS):
        averager.step()
    assert [merge["step"] for merge in averager.merges] == steps and same(weights(model), weights(Regression())) is None


def by_layer(t: int, theta: Tensors, theta_o: Tensors) -> dict[str, float] | None:
    betas = {"net.0.weight": 0.9, "net.0.bias": 0.9, "net.2.weight": 0.5, "net.2.bias": 0.1}
    return betas if t % 3 == 0 else None


LAYERS = {r"net\.0": 0.9, "bias$": 0.1}  # the first match counts


def test_another_beta_for_some_layers() -> None:
    sfa = SFA(p=0.25, layers=LAYERS)
    start, distances = weights(Regression()), []

    def decide(t: int, theta: Tensors, theta_o: Tensors) -> dict[str, float] | None:
        betas = by_layer(t, theta, theta_o)
        if betas:
            merged = {n: betas[n] * theta_o[n] + (1 - betas[n]) * w for n, w in theta.items()}
            distances.append(
                sum(float((w.double() - start[n].double()).square().sum()) for n, w in merged.items()) ** 0.5
            )
        return betas

    same(fitted(sfa), loop(decide))
    assert [merge["l2_after"] for merge in sfa.merges] == pytest.approx(distances, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "betas"),
    [
        ({"p": 0.25, "beta": 0.2, "beta_end": 0.8}, {3: 0.2, 6: 0.4, 9: 0.6, 12: 0.8}),
        ({"every": "5ba", "beta": 0.9, "beta_end": 0.1}, {5: 0.9, 10: 0.5, 12: 0.1}),
        ({"p": 0.25, "beta": 0.3, "beta_end": 0.7, "at_end": False}, {3: 0.3, 6: 0.5, 9: 0.7}),
        ({"p": 1, "beta": 0.3, "beta_end": 0.7}, {12: 0.3}),
    ],
)
def test_beta_changes_linearly_over_the_merges(options: dict[str, Any], betas: dict[int, float]) -> None:
    sfa = SFA(**options)
    same(fitted(sfa), loop(after(betas)))
    assert [merge["step"] for merge in sfa.merges] == [*betas]


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_moments_are_averaged_with_zero(kind: str) -> None:
    sfa = SFA(p=0.25, layers=LAYERS, merge_optimizer=True)
    theirs = loop(by_layer, kind, moments=True)
    same(fitted(sfa, kind), theirs)
    assert not torch.allclose(loop(by_layer, kind)["net.0.weight"], theirs["net.0.weight"], atol=1e-4)


def test_it_merges_where_the_relative_distance_passes_a_bound() -> None:
    merged: list[int] = []

    def norm(tensors: Tensors) -> float:
        return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5

    def decide(t: int, theta: Tensors, theta_o: Tensors) -> dict[str, float] | None:
        if norm({n: w - theta_o[n] for n, w in theta.items()}) / norm(theta_o) > 0.08 or t == STEPS:
            merged.append(t)
            return dict.fromkeys(theta, 0.5)
        return None

    sfa = SFA(distance=0.08)
    same(fitted(sfa), loop(decide))
    assert [merge["step"] for merge in sfa.merges] == merged and 2 < len(merged) < STEPS


def test_the_anchor_may_be_the_mean_of_models(tmp_path: Path) -> None:
    models = [weights(Regression(seed=seed)) for seed in (0, 5, 6)]
    for i, model in enumerate(models[1:]):
        (tmp_path / str(i)).mkdir()
        save_file(model, tmp_path / str(i) / "model.safetensors")
    theta_o = {name: sum(model[name] for model in models) / 3 for name in models[0]}
    sfa = SFA(p=0.25, past=[str(tmp_path / "0"), str(tmp_path / "1")])
    same(fitted(sfa), loop(after(dict.fromkeys((3, 6, 9, 12), 0.5)), theta_o=theta_o))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"p": 0.25, "beta_end": 0.9, "merge_optimizer": True},
        {"distance": 0.08, "at_end": False},
        {"p": 0.25, "layers": LAYERS, "past": True},
    ],
)
def test_resumed_at_any_step_it_is_bitwise_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    if "past" in options:
        (tmp_path / "past").mkdir()
        save_file(weights(Regression(seed=5)), tmp_path / "past" / "model.safetensors")
        options = {**options, "past": [str(tmp_path / "past")]}
    whole = fitted(SFA(**options), "adamw", callbacks=[saver_every_step(tmp_path, STEPS)])
    for step in (2, 6, 10):
        resumed = fitted(SFA(**options), "adamw", load_path=str(tmp_path / f"ep0-ba{step}.pt"))
        assert all(torch.equal(resumed[name], weight) for name, weight in whole.items()), step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5, "distance": 0.1}, "distance decides when to merge"),
        ({"distance": 0}, "must be positive"),
        ({"p": 0.5, "when": bool}, "when decides when to merge"),
        ({"distance": 0.1, "when": bool}, "pass either distance or when"),
        ({"p": 0.5, "beta_end": 2}, "beta_end weighs the old weights"),
        ({"p": 0.5, "layers": {"(": 0.5}}, "is not a regular expression"),
        ({"p": 0.5, "layers": {"head": 0.5}}, "no trained tensor's name contains a match of 'head'"),
        ({"every": "5tok", "beta_end": 0.9}, "beta_end needs the number of merges"),
        ({"p": 0.5, "layers": {"net": 0.5}, "merge": "product"}, "layers have a beta of their own"),
    ],
)
def test_options_that_contradict_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Averager(Regression(), STEPS, **options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sfa.when.distance=0.1"], "sfa: give either p, every or when"),
        (["sfa.p=null", "sfa.when={distance: 0.1, kl: 0.1}"], "sfa.when: give either distance or kl"),
        (["sfa.p=null", "sfa.when.kl=0.1", "parallelism=fsdp2"], "sfa.when.kl: holds θ_o as a second whole model"),
        (["sfa.p=1", "sfa.merge_at_end=false"], "sfa: merge_at_end: with p=1 there is no other merge"),
        (["sfa.p=null", "sfa.every=5tok", "sfa.beta_end=0.1"], "sfa: beta_end: needs p"),
        (["sfa.layers={embed: 2}"], "sfa.layers.embed: must be less than or equal to 1"),
        (["sfa.layers={'(': 0.2}"], "sfa: layers: '(' is not a regular expression"),
        (["sfa.merge_optimizer=true", "sfa.reset_optimizer_on_merge=true"], "sfa: merge_optimizer: the moments"),
    ],
)
def test_a_config_that_contradicts_itself_is_an_error(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(QUICKSTART, overrides)
    assert any(error.startswith(message) for error in caught.value.errors), caught.value.errors


def test_options_at_their_defaults_are_not_in_the_fingerprint() -> None:
    assert METHODS["sfa"]().weights_spec() == {"p": 0.25, "every": None, "beta": 0.5, "reset_optimizer_on_merge": False}
    changed = [
        "sfa.merge_at_end=false",
        "sfa.anchor=mean",
        "sfa.layers={embed: 0.9}",
        "sfa.beta_end=0.9",
        "sfa.merge_optimizer=true",
    ]
    ends = [plan(load(QUICKSTART, [*SMALL, *more]))[-1].fingerprint for more in ([], *([one] for one in changed))]
    ends.append(plan(load(QUICKSTART, [*SMALL, "sfa.p=null", "sfa.when.distance=0.1"]))[-1].fingerprint)
    ends.append(plan(load(QUICKSTART, [*SMALL, "sfa.p=null", "sfa.when.kl=0.1"]))[-1].fingerprint)
    assert len({*ends}) == 8
    when = METHODS["sfa"].model_validate({"p": None, "when": {"distance": 0.1}})
    assert when.weights_spec()["when"] == {"distance": 0.1}  # as before there was another bound


def test_options_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """θ_o of the third task is the mean of the models after the first two."""
    arguments = [QUICKSTART, *SMALL, f"save_folder={tmp_path}", "sfa.p=0.5", "sfa.anchor=mean"]
    assert train.main([*arguments, "sfa.merge_at_end=false", "dry_run=true"]) == 0
    assert "merges every 0.5 of it but not at the end" in capsys.readouterr().out
    assert train.main([*arguments, "sfa.layers={embed: 0.9}"]) == 0
    stages = json.loads((tmp_path / "quickstart" / "results.json").read_text())["stages"]
    assert [stage["merge_steps"] for stage in stages] == [[], [3, 6], [3, 6]]
    folders = [tmp_path / "stages" / stage["fingerprint"] for stage in stages]
    first, second, third = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    merge = json.loads((folders[2] / "manifest.json").read_text())["merges"][-1]
    moved = [(third[n].double() - (first[n].double() + second[n].double()) / 2).square().sum() for n in third]
    assert merge["l2_after"] == pytest.approx(float(sum(moved)) ** 0.5, rel=1e-4)
    assert merge["l2_after"] < 0.5 * merge["l2_before"]  # embeddings went nearer than half of their way
    assert train.main([*arguments, "sfa.layers={nothing: 1}"]) == 2
    assert "no trained tensor's name contains a match of 'nothing'" in capsys.readouterr().err
