"""The memory of one rank of a group whose others do not exist, during a step under FSDP2, as torch tracks it:
``python -m tests.gathered_worker OUT``."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Qwen2Config, Qwen2ForCausalLM

from sfa.models.outline import blocks_of, outline
from sfa.stages.needs import FLOAT32, gathered

SIZES = {
    "large vocabulary": {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 50_000},
    "large blocks": {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 500},
}
CASES = [  # the sizes, whether embeddings are tied, whether FSDP2 gathers bfloat16, ranks
    ("large vocabulary", True, True, 64),
    ("large vocabulary", True, False, 64),
    ("large vocabulary", False, False, 64),
    ("large blocks", True, True, 64),
    ("large blocks", True, False, 64),
    ("large vocabulary", True, False, 2),
]


def peak(size: str, is_tied: bool, is_mixed: bool, ranks: int) -> float:
    """Bytes at the peak of a second step, of those that the dry run expects of shards and gathered weights."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if is_mixed else MixedPrecisionPolicy()
    with FakeTensorMode():
        heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 6}
        model: Any = Qwen2ForCausalLM(Qwen2Config(**SIZES[size], **heads, tie_word_embeddings=is_tied))
        about = outline(model)
        for module in [*blocks_of(model), model]:
            fully_shard(module, mesh=mesh, mp_policy=policy)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tracker = FSDPMemTracker(model, optimizer)
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()
                model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False).logits.float().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        (found,) = tracker.get_tracker_snapshot("peak").values()
    distributed.destroy_process_group()
    return float(found["Total"]) / (2 * FLOAT32 * about.parameters / ranks + gathered(about, is_mixed))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps([peak(*case) for case in CASES]))
