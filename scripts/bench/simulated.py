"""One rank of many: the other ranks do not exist, and only this rank's shards are in memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from composer.core.precision import Precision
from composer.distributed.fsdp2 import prepare_fully_shard
from composer.distributed.fsdp2_utils import generate_composer_model_policy
from composer.utils import FSDP2Config
from torch import distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from sfa.anchor import trained_shards
from sfa.stages.composer_model import StageModel


@contextlib.contextmanager
def rank_of(ranks: int, rank: int = 0) -> Iterator[None]:
    """Within it, this process is one of ``ranks`` ranks. Collectives return at once, with nothing from the others."""
    distributed.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def sharded(model: Any) -> StageModel:
    """``model``, built on ``meta``, under FSDP2 as Composer trains it, with random weights in this rank's shards."""
    stage_model = StageModel(model, None)
    policy = generate_composer_model_policy(stage_model)
    prepare_fully_shard(stage_model, FSDP2Config(), Precision.FP32, policy)
    _allocate(stage_model)
    for shard in trained_shards(stage_model).values():
        shard.normal_()
    return stage_model


def _allocate(model: nn.Module) -> None:
    """Gives every parameter of ``meta`` memory for its shard; ``to_empty`` would copy a tied one for each name."""
    allocated: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in allocated:
                    allocated[parameter] = nn.Parameter(torch.empty_like(parameter, device="cpu"))
                module._parameters[name] = allocated[parameter]
