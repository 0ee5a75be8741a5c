"""Reads the pickles of checkpoints, and runs nothing that they name but what this suite's checkpoints consist of."""

import codecs
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import PosixPath
from typing import IO, Any

import numpy as np
import torch
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.serialization import StorageType, _get_layout
from torch.torch_version import TorchVersion

NUMBERS = re.compile("[biufc][0-9]+")  # numpy's types that hold no objects
MADE: Any = np.empty(0).__reduce__()[0]  # by which numpy pickles an array
SCALAR: Any = np.float64().__reduce__()[0]  # and a number
# What torch.load(weights_only=True) is to accept beside tensors and containers.
SAFE_GLOBALS: list[Any] = [
    timedelta,
    TorchVersion,
    np.dtype,
    np.ndarray,
    MADE,
    SCALAR,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
]


class ForeignPickle(Exception):
    """A pickle that this suite did not write, with the reason."""


def check_tensors(pickled: IO[bytes], records: Mapping[str, int]) -> None:
    """Checks the pickle of an archive of ``torch.save``. No tensor is made.

    Beside the names in it this checks what torch 2.7 takes on trust, also with ``weights_only``: that a storage has the
    bytes that the pickle says it has, and that every tensor lies within its storage.

    Args:
        pickled: the pickle.
        records: bytes of each storage in the archive, by key.

    Raises:
        ForeignPickle: it names, or asks for, anything else than numbers, containers, tensors and arrays of numbers.
    """
    try:
        reader = _TensorReader(pickled, records)
        reader.load()
        _require(reader.storages.keys() == records.keys(), "it holds more than its pickle names")
    except ForeignPickle:
        raise
    except Exception as error:  # whatever a forged pickle makes of the classes below
        raise ForeignPickle(f"its pickle is none of this suite's: {type(error).__name__}: {error}") from error


def read_metadata(pickled: IO[bytes]) -> metadata.Metadata:
    """What ``.metadata`` of a sharded checkpoint says.

    Raises:
        ForeignPickle: it names anything else than the metadata of tensors, or files that are no shards.
        pickle.UnpicklingError: it is torn.
    """
    try:
        read: metadata.Metadata = _MetadataReader(pickled).load()
        _require(type(read) is metadata.Metadata, "its metadata are none of torch's")
        _require(all(map(_is_shard, read.storage_data.values())), "its metadata name files that are no shards")
    except (ForeignPickle, pickle.UnpicklingError):
        raise
    except EOFError as error:
        raise pickle.UnpicklingError(str(error)) from error
    except Exception as error:  # whatever a forged pickle makes of these classes
        raise ForeignPickle(f"its metadata are none of this suite's: {type(error).__name__}: {error}") from error
    return read


def _is_shard(info: Any) -> bool:
    """Whether this is a part of a file that lies beside the metadata, as torch writes it."""
    return (
        type(info) is _StorageInfo
        and re.fullmatch(r"__[0-9]+_[0-9]+\.distcp", info.relative_path) is not None
        and type(info.offset) is int
        and type(info.length) is int
        and info.offset >= 0
        and info.length > 0
        and info.transform_descriptors is None
    )


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ForeignPickle(otherwise)


def _torch_type(module: str, name: str) -> Any:
    """A number's type of torch, or ``None``."""
    found = getattr(torch, name, None) if module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


_METADATA: dict[str, Any] = {
    "torch.distributed.checkpoint.metadata Metadata": metadata.Metadata,
    "torch.distributed.checkpoint.metadata MetadataIndex": metadata.MetadataIndex,
    "torch.distributed.checkpoint.metadata StorageMeta": metadata.StorageMeta,
    "torch.distributed.checkpoint.metadata TensorProperties": metadata.TensorProperties,
    "torch.distributed.checkpoint.metadata TensorStorageMetadata": metadata.TensorStorageMetadata,
    "torch.distributed.checkpoint.metadata ChunkStorageMetadata": metadata.ChunkStorageMetadata,
    "torch.distributed.checkpoint.metadata BytesStorageMetadata": metadata.BytesStorageMetadata,
    "torch.distributed.checkpoint.metadata _MEM_FORMAT_ENCODING": metadata._MEM_FORMAT_ENCODING,
    "torch.distributed.checkpoint.filesystem _StorageInfo": _StorageInfo,
    "torch.serialization _get_layout": _get_layout,
    "torch Size": torch.Size,
    "pathlib PosixPath": PosixPath,
    "collections OrderedDict": OrderedDict,
}


class _MetadataReader(pickle.Unpickler):
    """Makes what the metadata of a sharded checkpoint consist of: data classes, sizes, types and paths."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        found = _METADATA.get(f"{module} {name}") or _torch_type(module, name)
        _require(found is not None, f"loading it would run {module} {name}")
        return found


def _member(kind: Any, name: str) -> Any:
    """How Python before 3.11.4 pickles a member of an enum: by ``getattr``, which could reach anything elsewhere."""
    of_the_enum = kind is metadata._MEM_FORMAT_ENCODING and name in kind.__members__
    _require(of_the_enum, "loading it would run builtins getattr")
    return kind[name]


class _TensorReader(pickle.Unpickler):
    """Reads into stand-ins, which check what they are given and keep nothing of it."""

    def __init__(self, pickled: IO[bytes], records: Mapping[str, int]):
        super().__init__(pickled)
        self.records = records
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage") and hasattr(torch, name):
            return _StorageType(StorageType(name).dtype)
        found = _KNOWN.get(f"{module} {name}") or _torch_type(module, name)
        _require(found is not None, f"loading it would run {module} {name}")
        return found

    def persistent_load(self, key: Any) -> "_Storage":
        word, kind, record, _, numel = key
        _require(word == "storage" and type(kind) is _StorageType and type(numel) is int, f"it names {word!r}")
        found, has = _Storage(kind.dtype, numel), self.records.get(record)
        said = f"the storage {record} is said to have {numel} numbers of {kind.dtype} and has {has} bytes"
        _require(numel >= 0 and has == numel * kind.dtype.itemsize, said)
        known = self.storages.setdefault(record, found)
        _require(known.dtype == found.dtype, f"the storage {record} is read as {known.dtype} and as {found.dtype}")
        return known


class _StandIn:
    """Is not changed by a pickle after it was made. Its class is not either: this method would miss an argument."""

    def __setstate__(self, state: Any) -> None:
        raise ForeignPickle(f"it changes a {type(self).__name__}")


class _StorageType(_StandIn):
    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class _Storage(_StandIn):
    def __init__(self, dtype: torch.dtype, numel: int):
        self.dtype, self.numel = dtype, numel


class _Tensor(_StandIn):
    pass


class _Version(_StandIn, str):
    """Stands for torch's version, a kind of text."""


class _ArrayType(_StandIn):
    """Stands for a numpy type of numbers."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        _require(type(code) is str and NUMBERS.fullmatch(code) is not None, f"a numpy type {code!r}")
        self.itemsize = np.dtype(code).itemsize

    def __setstate__(self, state: Any) -> None:
        version, order, *nested = state
        _require((version, nested) == (3, [None, None, None, -1, -1, 0]) and order in "<>|=", "an odd numpy type")


class _Array(_StandIn):
    """Stands for a numpy array."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        _require(type(kind) is _ArrayType and type(content) is bytes and type(shape) is tuple, "an odd array")
        _require(all(type(n) is int and n >= 0 for n in shape), "an array of an odd shape")
        _require(math.prod(shape) * kind.itemsize == len(content), "an array of another size than its content")


class _Function(_StandIn):
    """Stands for a function."""

    def __init__(self, checked: Callable[..., Any]):
        self.checked = checked

    def __call__(self, *arguments: Any) -> Any:
        return self.checked(*arguments)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any) -> _Tensor:
    _require(type(storage) is _Storage and type(grad) is bool and hooks == OrderedDict(), "an odd tensor")
    whole = type(size) is type(stride) is tuple and len(size) == len(stride)
    _require(whole and all(type(n) is int and n >= 0 for n in (offset, *size, *stride)), "a tensor of an odd shape")
    end = offset + (sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0)
    _require(end <= storage.numel, f"a tensor of shape {size} reaches beyond its storage of {storage.numel} numbers")
    return _Tensor()


def _parameter(data: Any, grad: Any, hooks: Any) -> _Tensor:
    _require(type(data) is _Tensor and type(grad) is bool and hooks == OrderedDict(), "an odd parameter")
    return _Tensor()


def _bytes(text: Any, encoding: Any) -> bytes:
    """How Python pickles bytes in protocol 2."""
    _require(type(text) is str and encoding == "latin1", "an odd text")
    return codecs.encode(text, "latin1")


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    _require(kind is _Array, "an odd array")
    return _Array()


def _scalar(kind: Any, content: Any) -> None:
    _require(type(kind) is _ArrayType and type(content) is bytes and len(content) == kind.itemsize, "an odd number")


_KNOWN: dict[str, Any] = {
    "collections OrderedDict": OrderedDict,
    "datetime timedelta": timedelta,
    "torch.torch_version TorchVersion": _Version,
    "torch Size": torch.Size,
    "_codecs encode": _Function(_bytes),
    "torch._utils _rebuild_tensor_v2": _Function(_tensor),
    "torch._utils _rebuild_parameter": _Function(_parameter),
    "numpy dtype": _ArrayType,
    "numpy ndarray": _Array,
    f"{MADE.__module__} {MADE.__name__}": _Function(_array),
    f"{SCALAR.__module__} {SCALAR.__name__}": _Function(_scalar),
}
