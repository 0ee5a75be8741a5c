"""Tensors of safetensors files, read and written one at a time, so that at most one is in memory."""

import ctypes
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfa.errors import ModelFilesError
from sfa.model_files import weight_files

Shape = tuple[int, ...]

# Dtypes other than floating-point, by their safetensors names.
WHOLE_NUMBERS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
ORDER = ["BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "F32", "I64", "U64"]  # of a file, from its end


def locations(folder: Path) -> dict[str, Path]:
    """The file that each tensor of a model folder is in, of those that :func:`sfa.model_files.weight_files` names.

    Raises:
        FileNotFoundError: the folder contains no safetensors files, or one in its index is missing.
        ModelFilesError: its index or a file is damaged, its files do not match the index, or a tensor is in two files.
    """
    files: dict[str, Path] = {}
    for file, listed in weight_files(folder).items():
        try:
            with safe_open(file, framework="pt") as stream:
                names = list(stream.keys())
        except SafetensorError as error:
            raise ModelFilesError(f"{file} is torn or damaged: {error}") from error
        odd = sorted(listed.symmetric_difference(names)) if listed is not None else []
        if odd:
            holds = "holds" if odd[0] in names else "lacks"
            raise ModelFilesError(f"{file} {holds} the tensor {odd[0]}, which contradicts the index of its folder")
        for name in names:
            if name in files:
                raise ModelFilesError(f"{name} is in two files, {files[name]} and {file}: which one is the model's?")
            files[name] = file
    return files


def shapes(files: Mapping[str, Path]) -> dict[str, Shape]:
    """The shape of every tensor, from the headers of its files. ``files`` is from :func:`locations`."""
    shapes: dict[str, Shape] = {}
    for file in set(files.values()):
        with safe_open(file, framework="pt") as stream:
            shapes |= {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    return {name: shapes[name] for name in files}


def kinds(files: Mapping[str, Path]) -> dict[str, str]:
    """The safetensors name of every tensor's dtype, like ``F32``, from the headers of its files."""
    dtypes: dict[str, str] = {}
    for file in set(files.values()):
        with safe_open(file, framework="pt") as stream:
            dtypes |= {name: stream.get_slice(name).get_dtype() for name in stream.keys()}  # noqa: SIM118
    return {name: dtypes[name] for name in files}


def buffers(files: Mapping[str, Path]) -> set[str]:
    """The tensors that are neither trained nor merged: integers and booleans, and the statistics of batch and instance
    norms, identified by torch's names for them."""
    return {
        name for name, kind in kinds(files).items() if kind in WHOLE_NUMBERS or name.rpartition(".")[2] in STATISTICS
    }


def stored(file: Path, name: str) -> Tensor:
    """One tensor as it is stored. The file is opened for each tensor: pages read from a mapped file count as memory of
    this process until the file is closed and its tensors are freed, and opening takes a fraction of a millisecond."""
    with safe_open(file, framework="pt") as stream:
        tensor: Tensor = stream.get_tensor(name)
    return tensor


def read(file: Path, name: str) -> Tensor:
    """:func:`stored`, float32."""
    return stored(file, name).float()


def write(
    file: Path,
    shapes: Mapping[str, Shape],
    pieces: Callable[[str], Iterable[Tensor]],
    whole_numbers: Mapping[str, str] | None = None,
) -> None:
    """Writes float32 tensors and integers byte for byte as ``safetensors.torch.save_file`` does, atomically.

    ``save_file`` needs all tensors at once, and safetensors has no other way to write. Its format puts a header before
    the data, which depends on names and shapes alone.

    Args:
        file: the file to write or replace. An incomplete file is next to it, under the same name in every attempt.
        shapes: shapes of the tensors by name.
        pieces: returns the consecutive pieces of a named tensor; called once per name, in the order of the file.
        whole_numbers: dtypes, keys of :data:`WHOLE_NUMBERS`, of the tensors that are not float32.

    Raises:
        ValueError: the number of entries in the pieces of a tensor does not match its shape.
        OSError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.part")
    dtypes = dict.fromkeys(shapes, ("F32", torch.float32))
    dtypes |= {name: (kind, WHOLE_NUMBERS[kind]) for name, kind in (whole_numbers or {}).items()}
    order = sorted(shapes, key=lambda name: (-ORDER.index(dtypes[name][0]), name))
    try:
        with temporary.open("wb") as stream:
            stream.write(_header((name, *dtypes[name], shapes[name]) for name in order))
            for name in order:
                size = 0
                for piece in pieces(name):
                    numbers = piece.to(dtypes[name][1]).contiguous()
                    stream.write((ctypes.c_ubyte * numbers.nbytes).from_address(numbers.data_ptr()))
                    size += numbers.numel()
                if size != math.prod(shapes[name]):
                    raise ValueError(f"{name} must have shape {shapes[name]}, but its pieces have {size} entries")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _header(named: Iterable[tuple[str, str, torch.dtype, Shape]]) -> bytes:
    """Eight bytes for its length, and JSON, padded with blanks to a multiple of eight. ``named`` holds the name, the
    dtype in safetensors and in torch, and the shape of every tensor."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, kind, dtype, shape in named:
        end = start + dtype.itemsize * math.prod(shape)
        content[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
