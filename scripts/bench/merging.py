"""One SFA merge against one flat ``lerp_`` of the same bytes, the limit of the memory bandwidth, and Composer's EMA."""

import copy
from typing import Any

import torch
from composer.algorithms.ema import compute_ema
from torch import Tensor

from scripts.bench import shapes
from scripts.bench.measure import Row, Setup, in_turn
from sfa.anchor import Anchor, trained_shards

LINE = "one SFA merge"
BETA = 0.5


def run(setup: Setup) -> list[Row]:
    rows = []
    for shape in ("1M",) if setup.small else ("135M", "1B"):
        model = shapes.build(shape, setup.device)
        rows += _against_flat(shape, model, setup)
        rows.append(_against_ema(shape, model, setup))
    return rows


def _against_flat(shape: str, model: Any, setup: Setup) -> list[Row]:
    shards = trained_shards(model)
    size = sum(shard.numel() for shard in shards.values())
    theta, theta_o = (torch.randn(size, device=setup.device) for _ in range(2))
    anchor = Anchor(shards, "device")
    works = {
        "flat": lambda: theta.lerp_(theta_o, BETA),
        "merge": lambda: anchor.merge_into(trained_shards(model), BETA),
        "measured": lambda: anchor.measure_and_merge(trained_shards(model), BETA),
    }
    taken = in_turn(works, setup.rounds(15))
    case = f"{shape}, {len(shards)} tensors, fp32, {setup.device}"
    bound, against = (1.15 if setup.device == "cuda" else 1.1), "one flat lerp_ of the same bytes"
    rows = [
        Row(LINE, case, against, taken["merge"], taken["flat"], bound),
        Row(LINE, f"{case}, with the distance that SFA logs", against, taken["measured"], taken["flat"]),
    ]
    if setup.device == "cuda":
        rows += _over_the_bus(case, model, shards, theta, setup)
    return rows


def _over_the_bus(case: str, model: Any, shards: dict[str, Tensor], theta: Tensor, setup: Setup) -> list[Row]:
    pinned = torch.empty(len(theta), pin_memory=True).copy_(theta)
    anchor = Anchor(shards, "cpu")
    works = {
        "bus": lambda: theta.copy_(pinned, non_blocking=True),
        "merge": lambda: anchor.merge_into(trained_shards(model), BETA),
        "measured": lambda: anchor.measure_and_merge(trained_shards(model), BETA),
    }
    taken = in_turn(works, setup.rounds(15))
    case, against = f"{case}, θ_o in pinned host memory", "one flat copy of the same bytes to the GPU"
    return [
        Row(LINE, case, against, taken["merge"], taken["bus"], 1.15),
        Row(LINE, f"{case}, with the distance that SFA logs", against, taken["measured"], taken["bus"], 1.15),
    ]


def _against_ema(shape: str, model: Any, setup: Setup) -> Row:
    anchor, average = Anchor(trained_shards(model), "device"), copy.deepcopy(model)
    works = {
        "merge": lambda: anchor.merge_into(trained_shards(model), BETA),
        "ema": lambda: compute_ema(model, average, smoothing=BETA),
    }
    taken = in_turn(works, setup.rounds(7))
    bound = 15.0 if setup.device == "cpu" else None
    case = f"{shape}, fp32, {setup.device}, against an average of Composer's"
    return Row(LINE, case, "Composer's compute_ema", taken["merge"], taken["ema"], bound, "at least")
