"""Averager on 16-bit and quantized weights: repeated merges end where those of float32 weights end."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa import Averager
from tests.trainer_cases import Cell, cells

ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # the relative error of a rounded number, at most
MERGES, BETA = 20, 0.25


def wide(dtype: torch.dtype, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 20)).to(dtype)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in network.parameters()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", "device"])
def test_twenty_merges_end_where_float32_ends_rounded_once(dtype: torch.dtype, device: Any) -> None:
    """Without steps between the merges, θ_o + (1−β)²⁰·(θ − θ_o) in float64; weights merged in 16 bits stall."""
    network = wide(dtype)
    theta_o = flat(network)
    averager = Averager(network, MERGES, every="1ba", beta=BETA, anchor_device=device)
    naive = []
    with torch.no_grad():
        for parameter, other in zip(network.parameters(), wide(dtype, seed=1).parameters(), strict=True):
            naive.append((parameter.clone(), other.clone()))
            parameter.copy_(other)
    theta = flat(network)
    for _ in range(MERGES):
        averager.step()
        for old, new in naive:
            new.lerp_(old, BETA)
    exact = theta_o + (1 - BETA) ** MERGES * (theta - theta_o)
    allowed = exact.abs() * ROUNDING[dtype] * 1.01 + 1e-7
    assert bool(((flat(network) - exact).abs() <= allowed).all())
    stalled = torch.cat([new.flatten().double() for _, new in naive])
    assert float((stalled - exact).norm()) > 1.5 * float((flat(network) - exact).norm())
    assert averager.merges[-1]["l2_before"] == pytest.approx(
        float((theta - theta_o).norm()) * (1 - BETA) ** (MERGES - 1), rel=1e-5
    )


@pytest.mark.parametrize("cell", [pytest.param(None, marks=cells(Cell("plain loop", "one process", precision="bf16")))])
def test_what_an_optimizer_changes_between_merges_is_kept(cell: None) -> None:
    """Twenty merges, each after two steps. A step adds a rounding u, and a merge shrinks the sum: 2u/β at most."""
    torch.manual_seed(2)
    x, y = torch.randn(16, 40), torch.randn(16, 20)
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = wide(torch.bfloat16).to(dtype)
        opt, averager = torch.optim.SGD(network.parameters(), lr=0.2), Averager(network, 40, p=0.05, beta=BETA)
        for _ in range(40):
            opt.zero_grad()
            nn.functional.mse_loss(network(x.to(dtype)).float(), y).backward()
            opt.step()
            averager.step()
        assert len(averager.merges) == MERGES
        results[dtype] = flat(network)
    error = (results[torch.bfloat16] - results[torch.float32]).abs()
    assert float(error.max()) < 2 * ROUNDING[torch.bfloat16] / BETA * float(results[torch.float32].abs().max())


def test_the_bytes_of_theta_o_and_of_the_shadow_are_reported() -> None:
    for dtype, factor in ((torch.float32, 1), (torch.bfloat16, 2)):  # θ_o; and the shadow, both float32
        network = wide(dtype)
        assert Averager(network, 1, p=1).bytes == factor * 4 * sum(p.numel() for p in network.parameters())


def test_quantized_and_frozen_weights_are_untouched() -> None:
    network = wide(torch.float32)
    network.register_parameter("packed", nn.Parameter(torch.arange(8, dtype=torch.uint8), requires_grad=False))
    network[0].weight.requires_grad_(False)
    averager = Averager(network, 1, p=1, beta=1)
    frozen = [network.packed.clone(), network[0].weight.clone()]
    with torch.no_grad():
        for parameter in (network[0].bias, network[2].weight, network[2].bias):
            parameter.add_(1)
    averager.step()
    assert averager.anchor is not None and averager.anchor.shards.keys() == {"0.bias", "2.weight", "2.bias"}
    assert torch.equal(network.packed, frozen[0]) and torch.equal(network[0].weight, frozen[1])
    assert torch.equal(network[2].weight, wide(torch.float32)[2].weight)  # β=1: θ_o


def test_weights_in_8_bits_are_an_error() -> None:
    network = nn.Linear(2, 2).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"weight is torch\.float8_e4m3fn; weights in 16, 32 and 64 bits can be"):
        Averager(network, 1, p=1)
