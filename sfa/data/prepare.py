"""A task's rows as arrays of what its model takes, made once and kept by content."""

import contextlib
import importlib.metadata
import json
import math
import shutil
import tempfile
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
from sfa.data.packing import LongRows, Packed, alone, encode, encode_pairs, none_fits, pack
from sfa.data.pixels import Pixels
from sfa.data.source import SourceError, shuffled, usable
from sfa.data.task import Row, Split, Task
from sfa.data.template import Layout
from sfa.data.tokens import Encoder
from sfa.store import fingerprint, identity, lock, seal, unsealed

PLACE = ("name_or_path", "_commit_hash", "is_local", "local_files_only")  # of a tokenizer's settings: where it lay
ALIKE = 16  # lengths of examples are multiples of it, so that several are alike and can be worked on together


class Preparer(Protocol):
    """Makes what a model takes of a task's rows."""

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], dict[str, int]]:
        """The training rows of one task, or of several to be mixed, in one part or several, read from the folder
        ``cache`` if they were prepared before; and how many rows were not used as they are, by what was done with them.
        All ranks call it.

        Raises:
            SourceError: a task has no rows, or one of them cannot be used.
        """
        ...

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        """``count`` training rows of a task, drawn with a seed, each a batch of one whose loss is the summed negative
        log-likelihood of its response. A decoder's may be padded at their end."""
        ...


def preparer(
    processor: Any,
    pairs: bool,
    layout: Layout,
    seq_len: int,
    long_rows: LongRows,
    channels: int | None = None,
    packs: bool = True,
) -> "Preparer":
    """The preparer of a model with this tokenizer or image processor; ``pairs`` if it is an encoder-decoder,
    ``channels`` of the images that it takes."""
    if isinstance(processor, BaseImageProcessor):
        return ImagePreparer(processor, channels)
    return TextPreparer(Encoder(processor, layout, pairs), seq_len, long_rows, packs)


class TextPreparer:
    """Rows of text as sequences of tokens: packed for a decoder, one a row for an encoder-decoder.

    Args:
        encoder: of the model's tokenizer.
        seq_len: tokens of a sequence.
        long_rows: what is done with rows that are longer.
        packs: whether a decoder's sequences hold several examples; else one each.
    """

    def __init__(self, encoder: Encoder, seq_len: int, long_rows: LongRows = "drop", packs: bool = True):
        self.encoder, self.seq_len, self.long_rows, self.packs = encoder, seq_len, long_rows, packs

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], dict[str, int]]:
        encoder = self.encoder
        about: dict[str, Any] = {"tasks": [task.data_spec() for task in tasks], "template": encoder.layout.template}
        about |= {**encoder.layout.extras(), "pairs": encoder.pairs, "packs": self.packs, "long_rows": self.long_rows}
        about |= {"tokenizer": content(encoder.tokenizer), "seq_len": self.seq_len, "seed": seed, "v": 3}
        about |= {"versions": _versions("tokenizers", "transformers")}
        folder = cache / f"{_names(tasks)}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with _once(folder, tasks, about["tasks"]) as temporary:
                if temporary is not None:
                    packed, changed = self._sequences(tasks, seed)
                    told = {what: str(n) for what, n in changed.items()}
                    save_file(packed, temporary / "packed.safetensors", metadata=told)
        dist.barrier()
        with safe_open(unsealed(folder) / "packed.safetensors", framework="np") as stream:
            names = stream.keys()
            counts = {what: int(n) for what, n in stream.metadata().items()}
            return [{name: stream.get_tensor(name) for name in names}], counts

    def _sequences(self, tasks: Sequence[Task], seed: int) -> tuple[Packed, dict[str, int]]:
        """The sequences of the tasks' training rows, and how many rows were dropped and cut."""
        parts, changed = [], {"dropped": 0, "cut": 0}
        for task in tasks:
            rows = usable(task.rows("train"), task.name)
            part, cut = self._encoded(rows, task.name)
            kept = len(part["labels"]) if isinstance(part, dict) else len(part)
            if not kept:
                raise none_fits(task.name, self.seq_len)
            parts.append(part)
            changed["dropped"] += len(rows) - kept
            changed["cut"] += cut
        if self.encoder.pairs:
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, changed
        examples = [example for part in parts for example in part]
        pad = int(self.encoder.tokenizer.pad_token_id)
        return (pack(examples, self.seq_len, pad, seed) if self.packs else alone(examples, pad)), changed

    def _encoded(self, rows: Sequence[Row], name: str) -> tuple[Any, int]:
        kind = encode_pairs if self.encoder.pairs else encode
        return kind(rows, self.encoder, self.seq_len, self.long_rows, name)

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        rows = shuffled(usable(task.rows("train"), task.name), count, seed)
        encoded, _ = self._encoded(rows, task.name)
        pairs = self.encoder.pairs
        sequences = encoded if pairs else alone(encoded, int(self.encoder.tokenizer.pad_token_id))
        if not len(sequences["labels"]):
            raise none_fits(task.name, self.seq_len)
        found = []
        for i in range(len(sequences["labels"])):
            item = {name: torch.as_tensor(array[i]) for name, array in sequences.items()}
            if pairs:
                one = collate([item])
            else:
                length = math.ceil(int(item.pop("tokens")) / ALIKE) * ALIKE
                one = {name: x[None, :length] for name, x in item.items()}
            found.append({**one, "weight": torch.ones(1)})
        return found


def content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All that a tokenizer would save, by file: vocabulary, special tokens, settings, chat template. Not where it came
    from, nor how its last call padded and truncated, which the file holds as well."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            name = str(file.relative_to(folder))
            found[name] = json.loads(file.read_text()) if file.suffix == ".json" else identity(file)
    for unrelated in ("padding", "truncation"):
        found.get("tokenizer.json", {}).pop(unrelated, None)
    unrelated_settings = (*PLACE, "max_length", "stride", "truncation_strategy")
    settings = found.get("tokenizer_config.json", {}).items()
    kept = {key: value for key, value in settings if value is not None and key not in unrelated_settings}
    return {**found, "tokenizer_config.json": kept}


class ImagePreparer:
    """Images as the model's processor makes them (see :class:`sfa.data.pixels.Pixels`): ``pixel_values``
    ``[n, channels, height, width]``, ``labels`` ``[n]``, and ``tokens`` ``[n]``, ones, which count images. The pixels
    lie in a file and are read when they are asked for.

    Args:
        processor: of the model.
        channels: of the images that the model takes; if ``None`` as many as the processor has means.
    """

    def __init__(self, processor: Any, channels: int | None = None):
        self.processor = processor
        self.channels = channels or (1 if np.size(processor.image_mean) == 1 else 3)
        self.pixels = Pixels(processor, self.channels)

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Packed], dict[str, int]]:
        parts = [self.split(task, "train", cache) for task in tasks]
        return [part for part, _ in parts], {"unreadable": sum(skipped for _, skipped in parts)}

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
            "tasks": [task.data_spec()],
            "split": split,
            "processor": self.processor.to_dict(),
            "channels": self.channels,
            "versions": _versions("pillow", "torchvision", "transformers"),
            "v": 2,
        }
        folder = cache / f"{task.name}-{split}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with _once(folder, [task], about["tasks"]) as temporary:
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
def _once(folder: Path, tasks: Sequence[Task] = (), specs: Any = None) -> Iterator[Path | None]:
    """A folder to write in, which then becomes ``folder``, whole and sealed; ``None`` if that is there, perhaps because
    another process has just made it. ``specs`` are the data of ``tasks`` by which it is called.

    Raises:
        SourceError: the data were changed meanwhile; nothing is kept.
    """
    with lock(folder):
        if folder.exists():
            yield None
            return
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        yield temporary
        if tasks and [task.data_spec() for task in tasks] != specs:
            shutil.rmtree(temporary)
            raise SourceError(f"the data of {_names(tasks)} were changed while they were read; start the command again")
        seal(temporary)
        temporary.replace(folder)


def _versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


class _Mapped(np.memmap[Any, np.dtype[np.uint8]]):
    """An array in a file. A process that is handed it opens the file again."""

    def __reduce__(self) -> Any:
        return _mapped, (str(self.filename),)


def _mapped(file: str) -> Any:
    return np.load(file, mmap_mode="r").view(_Mapped)


def _names(tasks: Sequence[Task]) -> str:
    return "+".join(task.name for task in tasks)[:64]
