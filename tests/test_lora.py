"""LoRA: the average of products B·A against the average of full matrices, in float64."""

import math
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.models import ComposerModel
from torch import Tensor
from torch.utils.data import DataLoader

from sfa import SFA, Averager
from sfa.lora import Factors, average, factor_error
from tests.tiny import assert_close, loss, model, optimizer, rows, weights

RANK = 4


def factors(seed: int, out: int = 20, into: int = 30, rank: int = RANK) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator))


def product(of: Factors) -> Tensor:
    return of.b.double() @ of.a.double()


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(20, 30), (6, 30), (3, 2)])  # also less than twice the rank, and less than the rank
def test_it_is_the_best_approximation_of_the_average_of_products(beta: float, shape: tuple[int, int]) -> None:
    new, old = factors(1, *shape), factors(2, *shape)
    exact = beta * product(old) + (1 - beta) * product(new)
    singular = torch.linalg.svdvals(exact)
    merged, lost, total = average(new, old, beta, RANK)
    assert [tensor.shape for tensor in merged] == [tensor.shape for tensor in new]
    assert lost == pytest.approx(float(singular[RANK:].norm()), abs=1e-5)  # Eckart and Young
    assert total == pytest.approx(float(exact.norm()))
    assert float((product(merged) - exact).norm()) == pytest.approx(float(singular[RANK:].norm()), abs=1e-4)
    summed, lost, _ = average(new, old, beta)
    assert lost == 0 and summed.a.shape[0] == 2 * RANK
    torch.testing.assert_close(product(summed), exact, rtol=0, atol=1e-5)


def test_factors_stay_close_to_those_of_the_optimizer() -> None:
    new = factors(1)
    old = Factors(new.b + factors(2).b / 10, new.a + factors(3).a / 10)
    for beta, expected in ((0.0, new), (1.0, old)):
        merged, lost, _ = average(new, old, beta, RANK)
        assert lost == pytest.approx(0, abs=1e-6)
        for found, factor in zip(merged, expected, strict=True):
            torch.testing.assert_close(found, factor, rtol=0, atol=1e-5)
    merged, _, _ = average(new, old, 0.5, RANK)
    mean = Factors(*((x + y) / 2 for x, y in zip(new, old, strict=True)))
    for found, factor in zip(merged, mean, strict=True):
        assert float((found - factor).norm()) < 0.1 * float(factor.norm())


def test_opposite_factors_are_averaged_although_their_means_vanish() -> None:
    new = factors(1)
    old = Factors(-new.b, -new.a)  # of the same product
    merged, _, _ = average(new, old, 0.5, RANK)
    torch.testing.assert_close(product(merged), product(new), rtol=0, atol=1e-4)


def test_the_error_of_averaged_factors() -> None:
    new, old = factors(1), factors(2)
    exact = 0.3 * product(old) + 0.7 * product(new)
    mean = Factors(*(torch.lerp(x, y, 0.3) for x, y in zip(new, old, strict=True)))
    error, total = factor_error(new, old, 0.3)
    assert error == pytest.approx(float((product(mean) - exact).norm()), rel=1e-5)
    assert total == pytest.approx(float(exact.norm()), rel=1e-5)


def delta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """B·A of every adapter."""
    return {
        name: tensors[name.replace("lora_A", "lora_B")].double() @ a.double()
        for name, a in tensors.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize("kind", ["factors", "product"])
def test_merges_of_a_model_with_adapters(kind: str) -> None:
    network = model(lora=True)
    before, opt = delta(weights(network)), optimizer(network.parameters(), "sgd")
    averager = Averager(network, 3, p=1, beta=0.3, merge=kind)  # type: ignore[arg-type]
    for step in range(3):
        loss(network, rows()[4 * step : 4 * step + 4]).backward()
        opt.step()
        if step == 2:
            after = delta(weights(network))
        averager.step()
    merged = delta(weights(network))
    exact = {name: 0.3 * before[name] + 0.7 * after[name] for name in before}
    error = math.sqrt(sum(float((merged[name] - exact[name]).square().sum()) for name in exact))
    total = math.sqrt(sum(float(exact[name].square().sum()) for name in exact))
    assert averager.lora_error == pytest.approx(error / total, rel=1e-2)
    assert 0 < error / total < (0.01 if kind == "product" else 0.05)


class Composed(ComposerModel):
    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        return loss(self.network, [{"input_ids": row} for row in batch])

    def loss(self, outputs: Tensor, batch: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return outputs


def test_composer_averages_products() -> None:
    network, expected = model(lora=True), model(lora=True)
    opt, averager = optimizer(expected.parameters(), "sgd"), Averager(expected, 3, p=0.5, beta=0.3, merge="product")
    for step in range(3):
        loss(expected, rows()[4 * step : 4 * step + 4]).backward()
        opt.step()
        opt.zero_grad()
        averager.step()
    fit = Trainer(
        model=Composed(network),
        train_dataloader=DataLoader([row["input_ids"] for row in rows()], batch_size=4),  # type: ignore[arg-type]
        max_duration="3ba",
        optimizers=optimizer(network.parameters(), "sgd"),
        algorithms=[SFA(p=0.5, beta=0.3, merge="product")],
        device="cpu",
        progress_bar=False,
    )
    fit.fit()
    fit.close()
    assert_close(weights(network), weights(expected))


def test_products_have_less_error_than_factors() -> None:
    new, old = factors(1), factors(2)
    assert average(new, old, 0.5, RANK)[1] < factor_error(new, old, 0.5)[0]
