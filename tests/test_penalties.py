"""L1, L2 and EWC: gradients against autograd, EWC against equations 13 and 14, the Fisher information by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa.anchor import Anchor, trained_shards
from sfa.fisher import Fisher, diagonal
from sfa.penalties import add_gradient
from sfa.store import write_checksums
from sfa.trainers.penalty import Penalty
from tests.toy import BATCH, Regression, data, trainer, weights

STEPS = 7


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in {"a": (5, 3), "b": (4,), "c": ()}.items()}


@pytest.mark.parametrize("kind", ["l1", "l2", "ewc"])
@pytest.mark.parametrize("bucket", [8, 2**20])
def test_the_gradient_is_autograds(kind: Any, bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfa.anchor.HOST_BYTES", bucket)
    theta, theta_o, fisher, gradient = tensors(0), tensors(1), {k: v.abs() for k, v in tensors(2).items()}, tensors(3)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    moved = {name: leaf - theta_o[name] for name, leaf in leaves.items()}
    penalty = {
        "l1": sum(m.abs().sum() for m in moved.values()),
        "l2": sum((m**2).sum() for m in moved.values()) / 2,
        "ewc": sum((fisher[name] * m**2).sum() for name, m in moved.items()) / 2,
    }[kind]
    assert isinstance(penalty, Tensor)
    (0.3 * penalty).backward()
    expected = {name: gradient[name] + leaf.grad for name, leaf in leaves.items()}  # type: ignore[operator]
    add_gradient(kind, 0.3, gradient, theta, theta_o, fisher if kind == "ewc" else None)
    for name, actual in gradient.items():
        torch.testing.assert_close(actual, expected[name])


class Examples:
    """The toy's training rows, one a batch."""

    def __init__(self, count: int):
        x, y = data(STEPS)
        self.rows = [{0: x[i : i + 1], 1: y[i : i + 1]} for i in range(count)]

    def __call__(self) -> Any:
        return self.rows


def by_hand(model: Regression, count: int) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in Examples(count)():
        grads = torch.autograd.grad(nn.functional.mse_loss(model(row), row[1]), list(model.parameters()))
        for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
            total[name] += grad**2 / count
    return total


def test_the_fisher_information_is_the_mean_squared_gradient() -> None:
    model = Regression()
    for name, actual in diagonal(model, Examples(9)(), "empirical").items():
        torch.testing.assert_close(actual, by_hand(model, 9)[name])


def test_sampled_labels_are_the_models_own() -> None:
    """A model that is sure of one answer draws it, whatever the label says."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.0, 50.0]))

        def forward(self, example: dict[str, Tensor]) -> Tensor:
            return self.bias

        def loss(self, output: Tensor, example: dict[str, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(output[None], example["label"])

        def sampled(self, output: Tensor, example: Any, generator: torch.Generator) -> dict[str, Tensor]:
            return {"label": torch.multinomial(output.detach().softmax(0), 1, generator=generator)}

    labels = [{"label": torch.tensor([0])}] * 5
    assert diagonal(Sure(), labels, "empirical")["bias"].max() == pytest.approx(1)
    assert diagonal(Sure(), labels, "sampled")["bias"].max() == pytest.approx(0, abs=1e-6)


def reference(kind: str, strength: float, fisher: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The loss with its penalty, in a plain loop with autograd."""
    model = Regression()
    theta_o = weights(model)
    x, y = data(STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for t in range(STEPS):
        part = slice(t * BATCH, (t + 1) * BATCH)
        loss = nn.functional.mse_loss(model((x[part], y[part])), y[part])
        for name, p in model.named_parameters():
            moved = p - theta_o[name]
            if kind == "l1":
                loss = loss + strength * moved.abs().sum()
            else:
                loss = loss + strength / 2 * ((fisher[name] if fisher else 1.0) * moved**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights(model)


@pytest.mark.parametrize("kind", ["l1", "l2", "ewc"])
def test_training_with_a_penalty_equals_a_plain_loop(kind: Any, tmp_path: Path) -> None:
    model = Regression()
    fisher = by_hand(model, 9)
    fishers = [Fisher(tmp_path / "fisher", None, True, Examples(9))] if kind == "ewc" else []
    fit = trainer(model, STEPS, [Penalty(kind, 0.5, fishers=fishers)])
    fit.fit()
    fit.close()
    expected = reference(kind, 0.5, fisher if kind == "ewc" else None)
    for name, actual in weights(model).items():
        torch.testing.assert_close(actual, expected[name], rtol=0, atol=1e-6)
    assert kind != "ewc" or list((tmp_path / "fisher").glob("*.safetensors"))


def test_an_ewc_step_is_a_merge_weighted_by_the_fisher_information() -> None:
    """Equations 13 and 14: a step on the task's loss, then θ ← (I − ηF_o)θ* + ηF_oθ_o. The penalty's gradient is there
    taken at θ*, here at θ_t, which differ by η²F_o∇L."""
    eta = 1e-3
    theta, theta_o, fisher, task = tensors(0), tensors(1), {k: v.abs() for k, v in tensors(2).items()}, tensors(3)
    gradient = {name: g.clone() for name, g in task.items()}
    add_gradient("ewc", 1.0, gradient, theta, theta_o, fisher)
    for name in theta:
        ours = theta[name] - eta * gradient[name]
        starred = theta[name] - eta * task[name]
        merged = (1 - eta * fisher[name]) * starred + eta * fisher[name] * theta_o[name]
        torch.testing.assert_close(ours, merged - eta**2 * fisher[name] * task[name], rtol=0, atol=1e-6)


def test_one_accumulated_fisher_is_the_sum_and_one_a_task_pulls_to_each(tmp_path: Path) -> None:
    """Two past tasks: F₁+F₂ at θ_o, or F₁ at θ₁ and F₂ at θ_o."""
    from safetensors.torch import save_file

    model = Regression()
    theta_o = weights(model)
    first = {name: torch.full_like(tensor, 2.0) for name, tensor in theta_o.items()}
    (tmp_path / "first").mkdir()
    (tmp_path / "theta1").mkdir()
    save_file(first, tmp_path / "first" / "model.safetensors")
    write_checksums(tmp_path / "first")
    theta1 = {name: tensor + 1 for name, tensor in theta_o.items()}
    save_file(theta1, tmp_path / "theta1" / "model.safetensors")
    second = by_hand(model, 5)
    for anchor, pull in ((None, {n: 0 * t for n, t in theta_o.items()}), (str(tmp_path / "theta1"), first)):
        fishers = [
            Fisher(tmp_path / "first", anchor, False, Examples(0)),
            Fisher(tmp_path / f"second{anchor is None}", None, True, Examples(5)),
        ]
        again = Regression()
        penalty = Penalty("ewc", 1.0, fishers=fishers)
        fit = trainer(again, 1, [penalty], optimizers=torch.optim.SGD(again.parameters(), lr=0.1))
        fit.fit()
        fit.close()
        x, y = data(1)
        plain = Regression()
        grads = torch.autograd.grad(nn.functional.mse_loss(plain((x[:4], y[:4])), y[:4]), list(plain.parameters()))
        # At θ_o only the pull to θ₁ has a gradient: F₁(θ_o − θ₁) = −F₁.
        for (name, actual), grad in zip(weights(again).items(), grads, strict=True):
            torch.testing.assert_close(actual, theta_o[name] - 0.1 * (grad - pull[name]), rtol=0, atol=1e-6)
        total = sum(float(f.shards[n].sum()) for _, f in penalty._pulls if f for n in f.shards)
        assert total == pytest.approx(sum(float((first[n] + second[n]).sum()) for n in first), rel=1e-5)


def test_a_missing_fisher_of_weights_that_are_gone_is_an_error(tmp_path: Path) -> None:
    model = Regression()
    with pytest.raises(ValueError, match="the weights it belongs to are no longer available"):
        trainer(model, 1, [Penalty("ewc", 1.0, fishers=[Fisher(tmp_path / "no", None, False, Examples(1))])]).fit()
    with pytest.raises(ValueError, match="must not be negative"):
        Penalty("l2", -1)
    with pytest.raises(ValueError, match="ewc requires Fisher information"):
        Penalty("ewc", 1)


def test_the_anchor_may_lie_in_host_memory() -> None:
    model = Regression()
    anchor = Anchor(trained_shards(model), "cpu")
    assert anchor.bytes == sum(p.nbytes for p in model.parameters()) and math.isfinite(anchor.squared_norm())
