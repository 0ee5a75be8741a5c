"""Packed sequences in the order of training, the same for any number of ranks."""

from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from composer.utils import dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sfa.data.packing import IGNORED, Packed


class Steps(Dataset[dict[str, Tensor]]):
    """The sequences of ``steps`` global batches, epoch after epoch, each epoch in a new seeded order.

    Item ``k·batch + j`` is sequence j of global batch k. Its ``weight`` makes the mean over sequences of
    ``weight · (summed token loss)`` the mean over all learned tokens of the global batch, however the batch is split
    over ranks and microbatches.
    """

    def __init__(self, packed: Packed, steps: int, batch: int, seed: int):
        self.packed = packed
        n = len(packed["input_ids"])
        rng = np.random.default_rng(seed)
        epochs = -(-steps * batch // n)
        self.order = np.concatenate([rng.permutation(n) for _ in range(epochs)])[: steps * batch]
        learned = (packed["labels"] != IGNORED).sum(1)
        per_step = learned[self.order].reshape(steps, batch).sum(1)
        if not per_step.all():
            raise ValueError(f"global batch {int(np.argmin(per_step)) + 1} holds no token to learn")
        self.weight = np.repeat(batch / per_step, batch).astype(np.float32)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        row = self.order[position]
        item = {name: torch.as_tensor(array[row]) for name, array in self.packed.items()}
        return {**item, "weight": torch.as_tensor(self.weight[position])}


def step_count(max_duration: str, sequences: int, batch: int, seq_len: int) -> int:
    """Steps of a duration such as ``"2ep"``, ``"300ba"`` or ``"1000000tok"``, at least 1. Epochs leave out the
    sequences that fill no batch; tokens are rounded up to a batch."""
    unit = max_duration.lstrip("0123456789_")
    value = int(max_duration.removesuffix(unit).replace("_", ""))
    steps = {"ba": value, "ep": value * sequences // batch, "tok": -(-value // (batch * seq_len))}[unit]
    return max(1, steps)


def data_spec(steps: Steps, batch: int) -> DataSpec:
    """This rank's part of every global batch, for a Composer Trainer."""
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=batch // dist.get_world_size(),
        sampler=dist.get_sampler(steps, shuffle=False),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )
    return DataSpec(loader, get_num_tokens_in_batch=lambda part: int(part["tokens"].sum()))


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks sequences; those of an encoder-decoder lose the padding that all of them have."""
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    if "attention_mask" in batch:
        given = int(batch["attention_mask"].sum(1).max())
        learned = int((batch["labels"] != IGNORED).sum(1).max())
        for name, length in (("input_ids", given), ("attention_mask", given), ("labels", learned)):
            batch[name] = batch[name][:, :length]
    return batch
