"""Sequences or images in training order, the same for any number of ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sfa.data.packing import IGNORED, Arrays
from sfa.orphans import end_worker_with_parent
from sfa.schedule import exact_fraction

Transform = Callable[[dict[str, Tensor], int], dict[str, Tensor]]  # of an item and its position


class BatchSchedule(Dataset[dict[str, Tensor]]):
    """The sequences (or images) of ``steps`` global batches, epoch after epoch, each epoch in a new seeded order.

    Item ``k·batch + j`` is sequence j of global batch k. Its ``weight`` makes the mean over sequences of
    ``weight · (summed token loss)`` the mean over all learned tokens of the global batch, however the batch is split
    over ranks and microbatches.

    Args:
        current: sequences of the stage's tasks, in one or several groups of arrays.
        steps: T.
        batch: sequences in a global batch.
        seed: seed of all orders.
        past: buffered sequences of each past task, for rehearsal.
        fraction: share of sequences from past tasks, at random places of the whole training; each past task is drawn
            with the same probability.
        transform: applied to every item, such as augmentation.
        balanced: whether every group of ``current`` has the same number of items, up to one, in the whole training.
    """

    def __init__(
        self,
        current: Sequence[Arrays],
        steps: int,
        batch: int,
        seed: int,
        past: Sequence[Arrays] = (),
        fraction: float = 0.0,
        transform: Transform | None = None,
        balanced: bool = False,
    ):
        self.arrays, self.transform = [*current, *past], transform
        self.ends = np.cumsum([len(arrays["labels"]) for arrays in self.arrays])
        n = int(self.ends[len(current) - 1])
        rng = np.random.default_rng(seed)
        replayed = np.zeros(steps * batch, bool)
        if past:
            count = round(exact_fraction(fraction) * len(replayed))
            replayed[np.random.default_rng([seed, 1]).permutation(len(replayed))[:count]] = True
        fresh = int((~replayed).sum())
        self.order = np.zeros(steps * batch, np.int64)
        if balanced:
            group = rng.permutation(fresh) % len(current)
            starts = self.ends[: len(current)] - [len(arrays["labels"]) for arrays in current]
            fresh_order = np.zeros(fresh, np.int64)
            for i, arrays in enumerate(current):
                count = int((group == i).sum())
                fresh_order[group == i] = starts[i] + _epochs(rng, len(arrays["labels"]), count)
            self.order[~replayed] = fresh_order
        else:
            self.order[~replayed] = _epochs(rng, n, fresh)
        if past:
            sizes = np.array([len(arrays["labels"]) for arrays in past])
            task = rng.integers(len(past), size=int(replayed.sum()))
            self.order[replayed] = (n + np.cumsum(sizes) - sizes)[task] + rng.integers(sizes[task])
        learned = np.concatenate([learned_tokens(arrays["labels"]) for arrays in self.arrays])
        per_step = learned[self.order].reshape(steps, batch).sum(1)
        if not per_step.all():
            raise ValueError(f"global batch {int(np.argmin(per_step)) + 1} has no token to learn")
        self.weight = np.repeat(batch / per_step, batch).astype(np.float32)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        row = int(self.order[position])
        index = int(np.searchsorted(self.ends, row, "right"))
        arrays = self.arrays[index]
        place = row - int(self.ends[index]) + len(arrays["labels"])
        item = {name: torch.from_numpy(np.array(array[place])) for name, array in arrays.items()}
        item["weight"] = torch.as_tensor(self.weight[position])
        return self.transform(item, position) if self.transform else item


def _epochs(rng: np.random.Generator, n: int, count: int) -> NDArray[np.int64]:
    """``count`` numbers below ``n``, epoch after epoch, each epoch in a new order."""
    orders = [rng.permutation(n) for _ in range(max(1, -(-count // n)))]
    return np.concatenate(orders)[:count].astype(np.int64)


def learned_tokens(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of learned labels in each sequence; one for an image."""
    counts: NDArray[np.int64] = (labels != IGNORED).reshape(len(labels), -1).sum(1)
    return counts


def sample_rows(arrays: Arrays, size: int | None, seed: int) -> Arrays:
    """The buffer of a past task: ``size`` of its sequences, drawn with a seed; all if ``None``."""
    n = len(arrays["labels"])
    if size is None or size >= n:
        return arrays
    drawn = np.sort(np.random.default_rng([seed, 2]).choice(n, size, replace=False))
    return {name: array[drawn] for name, array in arrays.items()}


def example_count(arrays: Arrays) -> int:
    """The number of examples in the sequences."""
    if "position_ids" not in arrays:
        return len(arrays["labels"])
    used = np.arange(arrays["input_ids"].shape[1]) < arrays["tokens"][:, None]
    return int(((arrays["position_ids"] == 0) & used).sum())


def data_spec(schedule: BatchSchedule, batch: int, workers: int = 0) -> DataSpec:
    """This rank's part of every global batch, for a Composer Trainer. ``workers`` is the number of prefetching
    processes; they are forked from a server without CUDA, never from this process."""
    loader: DataLoader[Any] = DataLoader(
        schedule,
        batch_size=batch // dist.get_world_size(),
        sampler=dist.get_sampler(schedule, shuffle=False),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=end_worker_with_parent,
    )
    return DataSpec(loader, get_num_tokens_in_batch=lambda microbatch: int(microbatch["tokens"].sum()))


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks sequences; if each holds one example, padding common to all is removed."""
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    if "attention_mask" in batch:
        prompt_length = int(batch["attention_mask"].sum(1).max())
        learned_length = int((batch["labels"] != IGNORED).sum(1).max())
        for name, length in (
            ("input_ids", prompt_length),
            ("attention_mask", prompt_length),
            ("labels", learned_length),
        ):
            batch[name] = batch[name][:, :length]
    elif "input_ids" in batch and "position_ids" not in batch:
        longest = int(batch["tokens"].max())
        batch |= {name: batch[name][:, :longest] for name in ("input_ids", "labels")}
    return batch
