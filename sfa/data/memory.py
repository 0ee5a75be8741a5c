"""Stored sequences of past tasks, drawn anew in every step, the same for any number of ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from composer.utils import dist
from torch import Tensor

from sfa.data.batches import Transform, collate, learned_tokens
from sfa.data.packing import Arrays

Place = tuple[int, int]  # a past task, and one of its stored sequences


class Memory:
    """The stored sequences (or images) of each past task, as rehearsal stores them.

    Args:
        tasks: sequences of each past task.
        batch: sequences in a global batch, of which a draw has as many.
        seed: seed of the draws.
        transform: applied to every item, such as augmentation.

    Attributes:
        further_bytes: bytes that a method stores beside the sequences.
    """

    def __init__(self, tasks: Sequence[Arrays], batch: int, seed: int, transform: Transform | None = None):
        self.tasks, self.batch, self.seed, self.transform = list(tasks), batch, seed, transform
        self.learned = [learned_tokens(arrays["labels"]) for arrays in self.tasks]
        self.further_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of everything that is stored."""
        return sum(array.nbytes for arrays in self.tasks for array in arrays.values()) + self.further_bytes

    def draw(self, step: int, which: int = 0) -> list[Place]:
        """The places of a global batch: each past task is drawn with the same probability, and each of its sequences.
        ``which`` distinguishes several draws in one step."""
        rng = np.random.default_rng([self.seed, 3, step, which])
        sizes = np.array([len(arrays["labels"]) for arrays in self.tasks])
        tasks = rng.integers(len(sizes), size=self.batch)
        return list(zip(tasks.tolist(), rng.integers(sizes[tasks]).tolist(), strict=True))

    def batches(self, step: int, microbatch: int, which: int = 0) -> Iterator[tuple[list[Place], dict[str, Tensor]]]:
        """This rank's part of :meth:`draw`, in microbatches. Each sequence's ``weight`` makes the sum over all
        microbatches of ``weight · (summed token loss)``, averaged over ranks, the mean over the learned tokens of the
        global batch."""
        drawn, ranks, rank = self.draw(step, which), dist.get_world_size(), dist.get_global_rank()
        weight = ranks / max(1, sum(int(self.learned[task][row]) for task, row in drawn))
        mine = list(enumerate(drawn))[rank::ranks]
        for start in range(0, len(mine), microbatch):
            part = mine[start : start + microbatch]
            first = (2 * step + which) * self.batch  # positions of no other draw, for the transform
            items = [self._item(place, first + position, weight) for position, place in part]
            yield [place for _, place in part], collate(items)

    def _item(self, place: Place, position: int, weight: float) -> dict[str, Tensor]:
        task, row = place
        item = {name: torch.from_numpy(np.array(array[row])) for name, array in self.tasks[task].items()}
        item["weight"] = torch.tensor(weight, dtype=torch.float32)
        return self.transform(item, position) if self.transform else item
