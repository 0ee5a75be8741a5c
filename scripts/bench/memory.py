"""The memory that θ_o takes: on each rank, on the GPU, during a merge, and in checkpoints."""

from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.utils import dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from scripts.bench import shapes
from scripts.bench.measure import Row, Setup, held, peak, resident
from scripts.bench.ranks import on_ranks
from sfa import SFA
from sfa.anchor import DEVICE_BYTES, HOST_BYTES, Anchor, trained_shards
from sfa.data.batches import collate
from sfa.stages.composer_model import StageModel

LINE = "memory for θ_o"


def run(setup: Setup) -> list[Row]:
    rows = []
    bucket = DEVICE_BYTES if setup.device == "cuda" else HOST_BYTES
    ranks = 1 if setup.device == "cuda" else 2
    cases = [("1M", 1)] if setup.small else [("135M", 1), ("1B", 1), ("135M", ranks), ("1B", ranks)]
    for shape, count in dict.fromkeys(cases):
        per_rank = on_ranks(count, "scripts.bench.memory:of_anchor", shape=shape, device=setup.device)
        case = f"{shape}, fp32, {setup.device}, " + ("one rank" if count == 1 else f"each of {count} ranks, FSDP2")
        share = [rank["model"] / count for rank in per_rank]
        rows += [
            Row(LINE, case, "model bytes / ranks", [rank["theta_o"] for rank in per_rank], share, 1.02, unit="B"),
            Row(LINE, f"{case}, further memory while merging", "one bucket", [rank["merging"] for rank in per_rank],
                [bucket] * count, 1.0, unit="B"),
        ]  # fmt: skip
        if setup.device == "cuda":
            rows.append(Row(LINE, f"{case}, on the GPU", "", [rank["on_gpu"] for rank in per_rank], (), 0, unit="B"))
    with_it, without = (_checkpoint_bytes(setup.scratch, algorithms) for algorithms in ([SFA(p=0.5)], []))
    rows.append(Row(LINE, "tensors of a checkpoint, more than without SFA", "", [with_it - without], (), 0, unit="B"))
    return rows


def of_anchor(shape: str, device: str) -> dict[str, float]:
    """Bytes of the whole model, and those that θ_o adds on this rank."""
    model = shapes.build(shape, device)
    total = sum(parameter.nbytes for parameter in model.parameters())
    if dist.get_world_size() > 1:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    shards = trained_shards(model)
    before = resident()
    on_gpu = held()
    anchor = Anchor(shards, "cpu")
    taken, on_gpu = resident() - before, held() - on_gpu if device == "cuda" else 0.0
    anchor.measure_and_merge(shards, 0.5)  # the first call also allocates memory for kernels
    merging = peak(lambda: anchor.measure_and_merge(shards, 0.5))
    return {"model": total, "theta_o": taken, "on_gpu": on_gpu, "merging": merging}


def _checkpoint_bytes(scratch: Path, algorithms: list[Any]) -> float:
    """Bytes of all tensors in a Composer checkpoint of a short training."""
    model = StageModel(shapes.build("1M"), None)
    tokens = torch.arange(16)
    example = {"input_ids": tokens, "labels": tokens, "position_ids": tokens, "weight": torch.ones(())}
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader([example] * 4, batch_size=1, collate_fn=collate),  # type: ignore[arg-type]
        max_duration="4ba",
        optimizers=torch.optim.AdamW(model.parameters()),
        algorithms=algorithms,
        device="cpu",
        progress_bar=False,
        log_to_console=False,
    )
    trainer.fit()
    file = trainer.save_checkpoint(str(scratch / f"checkpoint-{len(algorithms)}.pt"))
    trainer.close()
    assert file is not None, "it has just been written"
    content = torch.load(file, weights_only=False)  # written above
    return float(sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor)))
