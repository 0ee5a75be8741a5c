"""The paper's models on one of 64 and 1,024 simulated ranks: the bytes of θ_o and the time of a merge against
:mod:`scripts.sizes`, and the collectives of a merge."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

from scripts.bench import shapes
from scripts.bench.measure import Row, Setup
from scripts.bench.simulated import rank_of, sharded
from scripts.sizes import CONFIGS, cpu_seconds, largest_shard, last_stage, measured_merge
from sfa.anchor import trained_shards
from sfa.averager import Averager
from sfa.methods.sfa import SFA as Settings

LINE = "one of many ranks, simulated"
MEASURED = Path("results/bench.json")


def run(setup: Setup) -> list[Row]:
    cases = [("Pythia-2.8B", 1024)] if setup.small else [(shape, ranks) for ranks in (64, 1024) for shape in CONFIGS]
    if not setup.small:
        cases.remove(("Llama-2-70B", 64))  # its shard and θ_o take 8.6 GB
    torch.set_num_threads(1)  # as in the line growth
    return [row for shape, ranks in cases for row in _of_one_rank(shape, ranks, setup)]


def _of_one_rank(shape: str, ranks: int, setup: Setup) -> list[Row]:
    """Rank 0, which holds the most, with the merges that the shape's config plans."""
    stage = last_stage(CONFIGS[shape])
    settings = stage.training.method
    assert isinstance(settings, Settings), "it was asked for"
    with rank_of(ranks):
        model = sharded(shapes.build(shape, "meta"))
        averager = Averager(model, stage.steps, settings.p, beta=settings.beta)
        assert averager.anchor is not None, "it has been started"
        anchor, shards = averager.anchor, trained_shards(model)
        count = sum(shard.numel() for shard in shards.values())
        _check_merge(averager, shards)
        with CommDebugMode() as communication:
            anchor.measure_and_merge(shards, settings.beta)
        _, *seconds = (
            _cpu_seconds(lambda: anchor.merge_into(shards, settings.beta)) for _ in range(1 + setup.rounds(9))
        )
    case = f"{shape} on {ranks:,} ranks, rank 0, {count:,} parameters"
    on_paper = cpu_seconds(largest_shard(shape, ranks), measured_merge(MEASURED))
    return [
        Row(LINE, f"{case}: θ_o", "on paper", [anchor.bytes], [4 * largest_shard(shape, ranks)], 1.0, unit="B"),
        Row(LINE, f"{case}: collectives of a merge", "", [communication.get_total_counts()], (), 0, unit=""),
        Row(LINE, f"{case}: a merge, CPU time", "on paper, from the line growth", seconds, [on_paper] * len(seconds)),
    ]


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """Of one thread: nothing waits for the ranks that do not exist, nor counts what else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _check_merge(averager: Averager, shards: dict[str, Tensor]) -> None:
    """Raises an AssertionError unless the first merge of a plan gives β·θ_o + (1−β)·θ on this rank."""
    for shard in shards.values():
        shard.add_(1)
    first = next(merge for _ in range(1000) if (merge := averager.step()) is not None)
    assert averager.anchor is not None, "it has been started"
    for name, shard in shards.items():
        expected = averager.anchor.shards[name] + (1 - averager.weighting.beta)
        torch.testing.assert_close(shard, expected, msg=f"{name} after step {first['step']}")
