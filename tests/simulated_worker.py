"""Run by test_sizes.py in a process of its own: one rank of many, on a small model. Writes to argv[1] what it found."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor.debug import CommDebugMode

from scripts.bench import shapes
from scripts.bench.simulated import rank_of, sharded
from sfa import Averager
from sfa.anchor import trained_shards

CASES = [(64, 0), (64, 63), (1024, 0), (1024, 700)]
BETA = 0.25


def found(ranks: int, rank: int) -> dict[str, Any]:
    with rank_of(ranks, rank):
        model = sharded(shapes.build("1M", "meta"))
        shards = trained_shards(model)
        before = {name: shard.clone() for name, shard in shards.items()}
        averager = Averager(model, steps=4, p=0.5, beta=BETA)
        assert averager.anchor is not None
        theta_o = averager.anchor
        is_copy = all(torch.equal(theta_o.shards[name], shard) for name, shard in before.items())
        for shard in shards.values():
            shard.normal_()
        moved = {name: shard.clone() for name, shard in shards.items()}
        assert averager.step() is None
        with CommDebugMode() as logged:
            assert averager.step() is not None
        expected = {name: BETA * before[name] + (1 - BETA) * moved[name] for name in shards}
        merged = {name: shard.clone() for name, shard in shards.items()}
        with CommDebugMode() as merging:
            theta_o.measure_and_merge(shards, BETA)
        with CommDebugMode() as counted:
            distributed.all_reduce(torch.ones(1))
        return {
            "shapes": {name: list(shard.shape) for name, shard in theta_o.shards.items()},
            "bytes": averager.bytes,
            "is copy": is_copy,
            "is merged": all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in shards),
            "while merging": merging.get_total_counts(),
            "with the distance": logged.get_total_counts(),
            "of one all_reduce": counted.get_total_counts(),
        }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({f"{rank} of {ranks}": found(ranks, rank) for ranks, rank in CASES}))
