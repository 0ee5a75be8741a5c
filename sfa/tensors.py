"""The tensors of safetensors files, read and written one at a time: no more of a model is ever in memory."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfa.model_files import weight_files

Shape = tuple[int, ...]


def locations(folder: Path) -> dict[str, Path]:
    """The file that each tensor of a model folder is in, of those that :func:`sfa.model_files.weight_files` names.

    Raises:
        FileNotFoundError: the folder holds no safetensors files, or lacks one that its index names.
        ValueError: its index or a file is damaged, its files do not hold what it lists, or a tensor is in two files.
    """
    found: dict[str, Path] = {}
    for file, listed in weight_files(folder).items():
        try:
            with safe_open(file, framework="pt") as stream:
                names = list(stream.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is torn or damaged: {error}") from error
        odd = sorted(listed.symmetric_difference(names)) if listed is not None else []
        if odd:
            holds = "holds" if odd[0] in names else "lacks"
            raise ValueError(f"{file} {holds} the tensor {odd[0]}, and the index of its folder says otherwise")
        for name in names:
            if name in found:
                raise ValueError(f"{name} is in two files, {found[name]} and {file}: which one is the model's?")
            found[name] = file
    return found


def shapes(files: Mapping[str, Path]) -> dict[str, Shape]:
    """The shape of every tensor, from the headers of its files. ``files`` is what :func:`locations` gives."""
    found: dict[str, Shape] = {}
    for file in set(files.values()):
        with safe_open(file, framework="pt") as stream:
            found |= {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    return {name: found[name] for name in files}


def read(file: Path, name: str) -> Tensor:
    """One tensor, float32. Its file is opened for it alone: the pages of a mapped file that were read count as memory
    of this process until the file is closed and its tensors are gone, and opening it takes a fraction of a ms."""
    with safe_open(file, framework="pt") as stream:
        tensor: Tensor = stream.get_tensor(name)
    return tensor.float()


def write(file: Path, shapes: Mapping[str, Shape], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    """Writes float32 tensors as ``safetensors.torch.save_file`` does, byte for byte, whole or not at all.

    ``save_file`` needs all tensors at once, and safetensors has no other way to write. Its format puts a header before
    the data, which depends on names and shapes alone.

    Args:
        file: that is written or replaced. What is not whole yet is beside it, under one name for all attempts.
        shapes: of each tensor, by name.
        pieces: gives the tensor of a name in pieces that follow each other; called once a name, in their order.

    Raises:
        ValueError: the pieces of a tensor hold more or fewer entries than its shape.
        OSError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(_header(sorted(shapes.items())))
            for name in sorted(shapes):
                size = 0
                for piece in pieces(name):
                    stream.write(piece.numpy().astype("<f4", copy=False).reshape(-1).view(np.uint8).data)
                    size += piece.numel()
                if size != math.prod(shapes[name]):
                    raise ValueError(f"{name} is to be of shape {shapes[name]}, and {size} entries came")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _header(named: Iterable[tuple[str, Shape]]) -> bytes:
    """Eight bytes for its length, and JSON, filled with blanks so that the data start at a multiple of eight."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in named:
        end = start + 4 * math.prod(shape)
        content[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
