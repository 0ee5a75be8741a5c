"""The accuracy on the held-out images of each task, by a head over the labels of all of them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import nn

from eval.live import is_sharded, unsharded, untouched
from sfa.callbacks import Score
from sfa.composer_model import StageModel
from sfa.data import Task
from sfa.data.image_arrays import ImageArrays, channels_of
from sfa.data.packing import Arrays
from sfa.data.source import SourceError
from sfa.store import fingerprint


class Accuracy:
    """Scores ``<task>_accuracy`` of a stream of image tasks: how often the likeliest of *all* labels is the right one.

    Args:
        names: of the evaluations.
        stream: the tasks.
        cache: folder of prepared images.
        limit: images of each evaluation, drawn with a seed; all of them if ``None``.
        batch_size: images at once.
        bf16: compute in bfloat16.
    """

    def __init__(
        self, names: Sequence[str], stream: Sequence[Task], cache: Path, limit: int | None, batch_size: int, bf16: bool
    ):
        self.names, self.cache, self.limit, self.batch_size, self.bf16 = list(names), cache, limit, batch_size, bf16
        by_name = {f"{task.name}_accuracy": task for task in stream}
        self.tasks = {name: by_name[name] for name in self.names}
        self._images: dict[str, Arrays] = {}
        self._keys: dict[str, str] = {}

    def key(self, name: str) -> str:
        """Hash of what determines the score of a given model, as it was when it was first asked for."""
        return self._keys.setdefault(name, self._keys.get(name) or self._key(name))

    def _key(self, name: str) -> str:
        """The images and how many."""
        return fingerprint(["accuracy", self.tasks[name].data_spec(), self.limit, self.bf16])

    def __call__(self, model: nn.Module, processor: Any, names: Sequence[str] | None = None) -> list[Score]:
        """Scores ``model`` (a ``transformers`` model, possibly under FSDP2) on ``names``, or on all evaluations. All
        ranks call it and receive the whole; each scores every n-th image with the gathered weights."""
        names = self.names if names is None else list(names)
        builder = ImageArrays(processor, channels_of(model.config))
        images = {name: self._load(name, builder) for name in names}
        rank, ranks = dist.get_global_rank(), dist.get_world_size()
        stage_model = StageModel(model, processor, cpu_bf16=self.bf16)
        with untouched(model), unsharded(model) if is_sharded(model) else contextlib.nullcontext():
            mine = {name: self._right(stage_model, part, rank, ranks) for name, part in images.items()}
        gathered = dist.all_gather_object(mine)
        return [_score(name, np.concatenate([part[name] for part in gathered])) for name in names]

    def _load(self, name: str, builder: ImageArrays) -> Arrays:
        if name not in self._images:
            key = self.key(name)
            found, _ = builder.split(self.tasks[name], "test", self.cache)
            if self._key(name) != key:
                raise SourceError(f"the images of {name} were changed while the run was going; start the command again")
            if self.limit is not None and self.limit < len(found["labels"]):
                drawn = np.sort(np.random.default_rng(0).permutation(len(found["labels"]))[: self.limit])
                found = {key: array[drawn] for key, array in found.items()}
            self._images[name] = found
        return self._images[name]

    def _right(self, model: StageModel, images: Arrays, rank: int, ranks: int) -> NDArray[np.bool_]:
        """Of each of this rank's images, whether its label was the likeliest."""
        device = next(model.parameters()).device
        pixels, labels = images["pixel_values"][rank::ranks], images["labels"][rank::ranks]
        found = [np.zeros(0, bool)]
        for start in range(0, len(labels), self.batch_size):
            batch = {"pixel_values": torch.from_numpy(np.array(pixels[start : start + self.batch_size])).to(device)}
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=self.bf16 and device.type == "cuda"):
                likeliest = model(batch).argmax(1).cpu().numpy()
            found.append(likeliest == labels[start : start + self.batch_size])
        return np.concatenate(found)


def _score(name: str, right: NDArray[np.bool_]) -> Score:
    n = len(right)
    stderr = float(right.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Score(task=name, metric="acc", value=float(right.mean()), stderr=stderr, n=n)
