"""Images as arrays of pixels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from sfa.data.array_cache import built_once, versions
from sfa.data.decoding import UnreadableImage, decode
from sfa.data.images import ImageRow, ImageTask, place
from sfa.data.packing import Arrays
from sfa.data.pixels import Pixels
from sfa.data.source import SourceError
from sfa.data.task import Split, Task
from sfa.store import fingerprint, verify_checksums


class ImageArrays:
    """Builds the arrays of images as the model's processor outputs them (see :class:`sfa.data.pixels.Pixels`):
    ``pixel_values`` ``[n, channels, height, width]``, ``labels`` ``[n]``, and ``tokens`` ``[n]``, ones, which count
    images. The pixels are memory-mapped.

    Args:
        processor: the model's image processor.
        channels: input channels of the model; if ``None``, the number of the processor's means.
    """

    def __init__(self, processor: Any, channels: int | None = None):
        self.processor = processor
        self.channels = channels or (1 if np.size(processor.image_mean) == 1 else 3)
        self.pixels = Pixels(processor, self.channels)

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Arrays], dict[str, int]]:
        splits = [self.split(task, "train", cache) for task in tasks]
        return [arrays for arrays, _ in splits], {"unreadable": sum(skipped for _, skipped in splits)}

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        rows = task.rows("train")
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
        read = {i: rows[i] for i in np.sort(chosen).tolist()}  # files are read in order
        pixels, labels, _ = self._arrays([read[i] for i in chosen.tolist()], task)
        arrays = zip(torch.from_numpy(pixels), torch.from_numpy(labels), strict=True)
        return [{"pixel_values": x[None], "labels": y[None], "weight": torch.ones(1)} for x, y in arrays]

    def split(self, task: Task, split: Split, cache: Path) -> tuple[Arrays, int]:
        """All images of a split, and how many could not be read. All ranks call it."""
        about = {
            "tasks": [task.data_spec()],
            "split": split,
            "processor": self.processor.to_dict(),
            "channels": self.channels,
            "versions": versions("pillow", "torchvision", "transformers"),
            "v": 2,
        }
        folder = cache / f"{task.name}-{split}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with built_once(folder, [task], about["tasks"]) as temporary:
                if temporary is not None:
                    pixels, labels, skipped = self._arrays(task.rows(split), task)
                    np.save(temporary / "pixel_values.npy", pixels)
                    np.save(temporary / "labels.npy", labels)
                    (temporary / "about.json").write_text(json.dumps({**about, "skipped": skipped}))
        dist.barrier()
        verify_checksums(folder)
        labels = np.load(folder / "labels.npy")
        skipped = json.loads((folder / "about.json").read_text())["skipped"]
        pixels = _mapped(str(folder / "pixel_values.npy"))
        return {"pixel_values": pixels, "labels": labels, "tokens": np.ones_like(labels)}, skipped

    def _arrays(self, rows: Sequence[ImageRow], task: Task) -> tuple[NDArray[Any], NDArray[np.int64], int]:
        """Pixels and labels of ``rows``, and how many cannot be read.

        Raises:
            SourceError: one cannot be read and the task does not skip such images; names its file or row. Or the
                processor outputs images of different sizes.
        """
        pixels: list[NDArray[Any]] = []
        labels: list[int] = []
        for number in range(len(rows)):
            row = rows[number]
            try:
                image = decode(row["image"], self.channels)
            except UnreadableImage as error:
                if not (isinstance(task, ImageTask) and task.skip_unreadable):
                    hint = f"tasks.….skip_unreadable=true leaves such images out of {task.name}"
                    raise SourceError(f"{place(row, number)} is not a readable image: {error}; {hint}") from error
                continue
            pixels.append(self.pixels(image))
            labels.append(int(row["label"]))
            if pixels[-1].shape != pixels[0].shape:
                sizes = " and ".join(" × ".join(map(str, pixels[i].shape[1:])) for i in (0, -1))
                raise SourceError(
                    f"{place(row, number)}: the model's image processor makes images of {sizes} pixels of this and the "
                    "first; its size must have a height and a width"
                )
        if not labels:
            raise SourceError(f"{task.name} has no image that can be read")
        return np.stack(pixels), np.array(labels, np.int64), len(rows) - len(labels)


def channels_of(configuration: Any) -> int | None:
    """Input channels of a model, if its configuration says."""
    channels = getattr(getattr(configuration, "vision_config", configuration), "num_channels", None)
    return None if channels is None else int(channels)


class _Mapped(np.memmap[Any, np.dtype[np.uint8]]):
    """An array in a file. A process that unpickles it opens the file again."""

    def __reduce__(self) -> Any:
        return _mapped, (str(self.filename),)


def _mapped(file: str) -> Any:
    return np.load(file, mmap_mode="r").view(_Mapped)
