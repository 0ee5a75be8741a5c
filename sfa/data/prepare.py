"""A task's rows as arrays of what its model takes, made once and kept by content."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from sfa.data.batches import collate
from sfa.data.decoding import UnreadableImage, decode
from sfa.data.images import ImageRow, ImageTask, place
from sfa.data.packing import Packed, alone, encode, encode_pairs, pack
from sfa.data.pixels import Pixels
from sfa.data.source import SourceError, shuffled, usable
from sfa.data.task import Row, Split, Task
from sfa.data.template import Template
from sfa.store import fingerprint, lock, seal, unsealed

ALIKE = 16  # lengths of examples are multiples of it, so that several are alike and can be worked on together


class Preparer(Protocol):
    """Makes what a model takes of a task's rows."""

    changed: str  # what befell the rows that :meth:`training` counts

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], int]:
        """The training rows of one task, or of several to be mixed, in one part or several, read from the folder
        ``cache`` if they were prepared before; and how many rows were ``changed``. All ranks call it.

        Raises:
            SourceError: a task has no rows, or one of them cannot be used.
        """
        ...

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        """``count`` training rows of a task, drawn with a seed, each a batch of one whose loss is the summed negative
        log-likelihood of its response. A decoder's may be padded at their end."""
        ...


def preparer(processor: Any, pairs: bool, seq_len: int, template: Template, channels: int | None = None) -> "Preparer":
    """The preparer of a model with this tokenizer or image processor; ``pairs`` if it is an encoder-decoder,
    ``channels`` of the images that it takes."""
    if isinstance(processor, BaseImageProcessor):
        return ImagePreparer(processor, channels)
    return TextPreparer(processor, seq_len, template, pairs)


class TextPreparer:
    """Rows of text as sequences of tokens: packed for a decoder, one a row for an encoder-decoder (``pairs``).

    Args:
        tokenizer: of the model.
        seq_len: tokens of a sequence.
        template: how a prompt is shown to the model.
        pairs: whether the model is an encoder-decoder.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, seq_len: int, template: Template = "plain", pairs: bool = False
    ):
        self.tokenizer, self.seq_len, self.template, self.pairs = tokenizer, seq_len, template, pairs
        self.changed = f"rows were cut to {seq_len} tokens"

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], int]:
        about: dict[str, Any] = {
            "tasks": [task.data_spec() for task in tasks],
            "template": self.template,
            "pairs": self.pairs,
        }
        about |= {"tokenizer": self.tokenizer.backend_tokenizer.to_str(), "chat": self.tokenizer.chat_template}
        about |= {"seq_len": self.seq_len, "seed": seed, "v": 2}
        folder = cache / f"{_names(tasks)}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with _once(folder) as temporary:
                if temporary is not None:
                    rows: list[Row] = [row for task in tasks for row in usable(task.rows("train"), task.name)]
                    if self.pairs:
                        packed, truncated = encode_pairs(rows, self.tokenizer, self.seq_len, self.template)
                    else:
                        examples, truncated = encode(rows, self.tokenizer, self.seq_len, self.template)
                        packed = pack(examples, self.seq_len, int(self.tokenizer.pad_token_id), seed)
                    save_file(packed, temporary / "packed.safetensors", metadata={"truncated": str(truncated)})
        dist.barrier()
        with safe_open(unsealed(folder) / "packed.safetensors", framework="np") as stream:
            names = stream.keys()
            return [{name: stream.get_tensor(name) for name in names}], int(stream.metadata()["truncated"])

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        rows = shuffled(usable(task.rows("train"), task.name), count, seed)
        if self.pairs:
            sequences, _ = encode_pairs(rows, self.tokenizer, self.seq_len, self.template)
        else:
            cut, _ = encode(rows, self.tokenizer, self.seq_len, self.template)
            sequences = alone(cut, int(self.tokenizer.pad_token_id))
        found = []
        for i in range(len(rows)):
            one = collate([{name: torch.as_tensor(array[i]) for name, array in sequences.items()}])
            if not self.pairs:
                length = math.ceil(int(one.pop("tokens")) / ALIKE) * ALIKE
                one = {name: x[:, :length] for name, x in one.items()}
            found.append({**one, "weight": torch.ones(1)})
        return found


class ImagePreparer:
    """Images as the model's processor makes them (see :class:`sfa.data.pixels.Pixels`): ``pixel_values``
    ``[n, channels, height, width]``, ``labels`` ``[n]``, and ``tokens`` ``[n]``, ones, which count images. The pixels
    lie in a file and are read when they are asked for.

    Args:
        processor: of the model.
        channels: of the images that the model takes; if ``None`` as many as the processor has means.
    """

    changed = "images could not be read and were left out"

    def __init__(self, processor: Any, channels: int | None = None):
        self.processor = processor
        self.channels = channels or (1 if np.size(processor.image_mean) == 1 else 3)
        self.pixels = Pixels(processor, self.channels)

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], int]:
        parts = [self.split(task, "train", cache) for task in tasks]
        return [part for part, _ in parts], sum(skipped for _, skipped in parts)

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        rows = task.rows("train")
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
        read = {i: rows[i] for i in np.sort(chosen).tolist()}  # files are read from their start to their end
        pixels, labels, _ = self._arrays([read[i] for i in chosen.tolist()], task)
        arrays = zip(torch.from_numpy(pixels), torch.from_numpy(labels), strict=True)
        return [{"pixel_values": x[None], "labels": y[None], "weight": torch.ones(1)} for x, y in arrays]

    def split(self, task: Task, split: Split, cache: Path) -> tuple[Packed, int]:
        """All images of a split, and how many could not be read. All ranks call it."""
        about = {
            "task": task.data_spec(),
            "split": split,
            "processor": self.processor.to_dict(),
            "channels": self.channels,
            "v": 2,
        }
        folder = cache / f"{task.name}-{split}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with _once(folder) as temporary:
                if temporary is not None:
                    pixels, labels, skipped = self._arrays(task.rows(split), task)
                    np.save(temporary / "pixel_values.npy", pixels)
                    np.save(temporary / "labels.npy", labels)
                    (temporary / "about.json").write_text(json.dumps({**about, "skipped": skipped}))
        dist.barrier()
        unsealed(folder)
        labels = np.load(folder / "labels.npy")
        skipped = json.loads((folder / "about.json").read_text())["skipped"]
        pixels = _mapped(str(folder / "pixel_values.npy"))
        return {"pixel_values": pixels, "labels": labels, "tokens": np.ones_like(labels)}, skipped

    def _arrays(self, rows: Sequence[ImageRow], task: Task) -> tuple[NDArray[Any], NDArray[np.int64], int]:
        """Pixels and labels of ``rows``, and how many of these cannot be read.

        Raises:
            SourceError: one cannot be read, and the task does not say to leave it out; names its file or its place. Or
                the processor leaves images of several sizes.
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
                    raise SourceError(f"{place(row, number)} is no readable image: {error}; {hint}") from error
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


@contextlib.contextmanager
def _once(folder: Path) -> Iterator[Path | None]:
    """A folder to write in, which then becomes ``folder``, whole and sealed; ``None`` if that is there, perhaps because
    another process has just made it."""
    with lock(folder):
        if folder.exists():
            yield None
            return
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        yield temporary
        seal(temporary)
        temporary.replace(folder)


class _Mapped(np.memmap[Any, np.dtype[np.uint8]]):
    """An array in a file. A process that is handed it opens the file again."""

    def __reduce__(self) -> Any:
        return _mapped, (str(self.filename),)


def _mapped(file: str) -> Any:
    return np.load(file, mmap_mode="r").view(_Mapped)


def _names(tasks: Sequence[Task]) -> str:
    return "+".join(task.name for task in tasks)[:64]
