"""MNIST A/B (Figure 9) against a plain loop written without the suite."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import train
from sfa.data import registered
from sfa.data.batches import BatchSchedule

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")


def arrays(labels: tuple[int, ...], split: Any) -> tuple[Tensor, Tensor]:
    rows = registered("digits", labels=labels).rows(split)
    pixels: NDArray[np.float32] = np.stack([row["image"] for row in rows]).astype(np.float32).reshape(len(rows), -1)
    return torch.tensor((pixels / 255 - 0.5) / 0.5), torch.tensor([row["label"] for row in rows])


def loop(model: nn.Sequential, x: Tensor, y: Tensor, order: NDArray[np.int64], lr: float, after: Any = None) -> None:
    """Plain SGD over the rows of ``order``, 20 a step; ``after(step)`` runs before the step's update is done with."""
    for step, rows in enumerate(torch.tensor(order).view(-1, 20), 1):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        if after is not None and after.penalty is not None:
            loss = loss + after.penalty(model)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(lr * parameter.grad)  # type: ignore[operator]
            if after is not None and after.merge is not None:
                after.merge(model, step)


class After:
    """What a method adds to the plain loop: a penalty to the loss, or a merge after a step."""

    def __init__(self, method: str, old: list[Tensor], fisher: list[Tensor], total: int):
        def distance(model: nn.Module, weights: list[Tensor]) -> Tensor:
            moved = zip(weights, model.parameters(), old, strict=True)
            return torch.stack([(w * (p - o) ** 2).sum() for w, p, o in moved]).sum()

        def merge(model: nn.Module, step: int) -> None:
            if step % 10 == 0 or step == total:
                for parameter, o in zip(model.parameters(), old, strict=True):
                    parameter.copy_(0.2 * o + 0.8 * parameter)

        ones = [torch.ones_like(o) for o in old]
        self.penalty = {"l2": lambda m: 0.5 / 2 * distance(m, ones), "ewc": lambda m: 20 / 2 * distance(m, fisher)}.get(
            method
        )
        self.merge = merge if method == "sfa" else None


@pytest.mark.parametrize("method", ["sfa", "l2", "ewc"])
def test_mnist_ab_is_what_a_plain_loop_makes_of_it(method: str, tmp_path: Path) -> None:
    """Figure 9: the same base, order of images and settings, written again without the suite."""
    overrides = ["train.max_duration=35ba", "l2.strength=0.5", "ewc.strength=20", "ewc.examples=50", "train.lr=0.05"]
    assert train.main([MNIST, *overrides, f"method={method}", f"save_folder={tmp_path}", "name=run"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    stages = {
        m["task"]: f
        for f in (tmp_path / "stages").iterdir()
        if f.is_dir() and (m := json.loads((f / "manifest.json").read_text()))
    }
    base = load_file(stages["base"] / "model" / "model.safetensors")
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    model.load_state_dict({"0.weight": base["hidden.0.weight"], "0.bias": base["hidden.0.bias"],
                           "2.weight": base["classifier.weight"], "2.bias": base["classifier.bias"]})  # fmt: skip
    even, odd = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
    orders = []
    for labels in (even, odd):
        y = arrays(labels, "train")[1].numpy()
        orders.append(BatchSchedule([{"labels": y}], 35, 20, 17).order)
    x, y = arrays(even, "train")
    loop(model, x, y, orders[0], 0.05)
    old = [p.detach().clone() for p in model.parameters()]
    fisher = [torch.zeros_like(o) for o in old]
    for i in np.random.default_rng(17).permutation(len(y))[:50]:
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        fisher = [f + p.grad**2 / 50 for f, p in zip(fisher, model.parameters(), strict=True)]  # type: ignore[operator]
    loop(model, *arrays(odd, "train"), orders[1], 0.05, After(method, old, fisher, 35))
    merged = load_file(tmp_path / "stages" / results["stages"][1]["fingerprint"] / "model" / "model.safetensors")
    expected = dict(
        zip(
            ("hidden.0.weight", "hidden.0.bias", "classifier.weight", "classifier.bias"),
            model.parameters(),
            strict=True,
        )
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor.detach(), rtol=0, atol=2e-6)
    scores = {row["evaluation"]: row["value"] for row in results["evaluations"] if row["after"] == "odd"}
    for labels, name in ((even, "even_accuracy"), (odd, "odd_accuracy")):
        x, y = arrays(labels, "test")
        assert scores[name] == pytest.approx(float((model(x).argmax(1) == y).float().mean()), abs=1.5 / len(y))
