"""Reads the pickles of checkpoints without calling anything that this suite's checkpoints do not contain."""

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

NUMBERS = re.compile("[biufc][0-9]+")  # numpy dtypes that contain no objects
RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # the function in the pickle of a numpy array
SCALAR: Any = np.float64().__reduce__()[0]  # and of a numpy number
# What torch.load(weights_only=True) must accept besides tensors and containers.
SAFE_GLOBALS: list[Any] = [
    timedelta,
    TorchVersion,
    np.dtype,
    np.ndarray,
    RECONSTRUCT,
    SCALAR,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
]


class UntrustedPickle(Exception):
    """A pickle with content that this suite does not write; the message gives the reason."""


def check_tensors(pickled: IO[bytes], records: Mapping[str, int]) -> None:
    """Checks the pickle of an archive of ``torch.save`` without creating a tensor.

    Besides the names in it this checks what torch 2.7 trusts even with ``weights_only``: that each storage has the size
    that the pickle states, and that every tensor lies within its storage.

    Args:
        pickled: the pickle.
        records: size of each storage in the archive in bytes, by key.

    Raises:
        UntrustedPickle: it contains anything other than numbers, containers, tensors and arrays of numbers.
    """
    try:
        reader = _TensorReader(pickled, records)
        reader.load()
        _require(reader.storages.keys() == records.keys(), "it contains storages that its pickle does not name")
    except UntrustedPickle:
        raise
    except Exception as error:  # a forged pickle may raise anything
        raise UntrustedPickle(f"its pickle was not written by this suite: {type(error).__name__}: {error}") from error


def read_metadata(pickled: IO[bytes]) -> metadata.Metadata:
    """Reads ``.metadata`` of a sharded checkpoint.

    Raises:
        UntrustedPickle: it contains anything other than the metadata of tensors, or names files that are not shards.
        pickle.UnpicklingError: it is incomplete.
    """
    try:
        read: metadata.Metadata = _MetadataReader(pickled).load()
        _require(type(read) is metadata.Metadata, "its metadata are not torch's")
        _require(all(map(_is_shard, read.storage_data.values())), "its metadata name files that are not shards")
    except (UntrustedPickle, pickle.UnpicklingError):
        raise
    except EOFError as error:
        raise pickle.UnpicklingError(str(error)) from error
    except Exception as error:  # a forged pickle may raise anything
        raise UntrustedPickle(
            f"its metadata were not written by this suite: {type(error).__name__}: {error}"
        ) from error
    return read


def _is_shard(info: Any) -> bool:
    """Whether this refers to a section of a shard file next to the metadata, as torch writes it."""
    return (
        type(info) is _StorageInfo
        and re.fullmatch(r"__[0-9]+_[0-9]+\.distcp", info.relative_path) is not None
        and type(info.offset) is int
        and type(info.length) is int
        and info.offset >= 0
        and info.length > 0
        and info.transform_descriptors is None
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UntrustedPickle(message)


def _torch_type(module: str, name: str) -> Any:
    """A torch dtype, or ``None``."""
    dtype = getattr(torch, name, None) if module == "torch" else None
    return dtype if isinstance(dtype, torch.dtype) else None


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
    """Creates only the contents of a sharded checkpoint's metadata: data classes, sizes, types and paths."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        allowed = _METADATA.get(f"{module} {name}") or _torch_type(module, name)
        _require(allowed is not None, f"loading it would run {module} {name}")
        return allowed


def _member(kind: Any, name: str) -> Any:
    """Python before 3.11.4 pickles an enum member with ``getattr``; it is allowed only for torch's memory formats."""
    is_member = kind is metadata._MEM_FORMAT_ENCODING and name in kind.__members__
    _require(is_member, "loading it would run builtins getattr")
    return kind[name]


class _TensorReader(pickle.Unpickler):
    """Creates stand-ins, which check their arguments and store none of the data."""

    def __init__(self, pickled: IO[bytes], records: Mapping[str, int]):
        super().__init__(pickled)
        self.records = records
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage") and hasattr(torch, name):
            return _StorageType(StorageType(name).dtype)
        allowed = _KNOWN.get(f"{module} {name}") or _torch_type(module, name)
        _require(allowed is not None, f"loading it would run {module} {name}")
        return allowed

    def persistent_load(self, key: Any) -> "_Storage":
        word, kind, record, _, numel = key
        _require(word == "storage" and type(kind) is _StorageType and type(numel) is int, f"it names {word!r}")
        storage, size = _Storage(kind.dtype, numel), self.records.get(record)
        message = f"the storage {record} is declared with {numel} numbers of {kind.dtype} and has {size} bytes"
        _require(numel >= 0 and size == numel * kind.dtype.itemsize, message)
        known = self.storages.setdefault(record, storage)
        _require(known.dtype == storage.dtype, f"the storage {record} is read as {known.dtype} and as {storage.dtype}")
        return known


class _StandIn:
    """Rejects changes by a pickle after creation, to instances and, for lack of an argument, to the class itself."""

    def __setstate__(self, state: Any) -> None:
        raise UntrustedPickle(f"it changes a {type(self).__name__}")


class _StorageType(_StandIn):
    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class _Storage(_StandIn):
    def __init__(self, dtype: torch.dtype, numel: int):
        self.dtype, self.numel = dtype, numel


class _Tensor(_StandIn):
    pass


class _Version(_StandIn, str):
    """Stand-in for torch's version, a subclass of str."""


class _ArrayType(_StandIn):
    """Stand-in for a numeric numpy dtype."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        _require(type(code) is str and NUMBERS.fullmatch(code) is not None, f"a numpy dtype {code!r}")
        self.itemsize = np.dtype(code).itemsize

    def __setstate__(self, state: Any) -> None:
        version, order, *nested = state
        _require(
            (version, nested) == (3, [None, None, None, -1, -1, 0]) and order in "<>|=", "an unexpected numpy dtype"
        )


class _Array(_StandIn):
    """Stand-in for a numpy array."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        _require(type(kind) is _ArrayType and type(content) is bytes and type(shape) is tuple, "an unexpected array")
        _require(all(type(n) is int and n >= 0 for n in shape), "an array of invalid shape")
        _require(math.prod(shape) * kind.itemsize == len(content), "an array whose size differs from its content")


class _Function(_StandIn):
    """Stand-in for a function."""

    def __init__(self, checked: Callable[..., Any]):
        self.checked = checked

    def __call__(self, *arguments: Any) -> Any:
        return self.checked(*arguments)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any) -> _Tensor:
    _require(type(storage) is _Storage and type(grad) is bool and hooks == OrderedDict(), "an unexpected tensor")
    is_shape = type(size) is type(stride) is tuple and len(size) == len(stride)
    _require(is_shape and all(type(n) is int and n >= 0 for n in (offset, *size, *stride)), "a tensor of invalid shape")
    end = offset + (sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0)
    _require(end <= storage.numel, f"a tensor of shape {size} exceeds its storage of {storage.numel} numbers")
    return _Tensor()


def _parameter(data: Any, grad: Any, hooks: Any) -> _Tensor:
    _require(type(data) is _Tensor and type(grad) is bool and hooks == OrderedDict(), "an unexpected parameter")
    return _Tensor()


def _bytes(text: Any, encoding: Any) -> bytes:
    """How Python pickles bytes in protocol 2."""
    _require(type(text) is str and encoding == "latin1", "an unexpected text")
    return codecs.encode(text, "latin1")


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    _require(kind is _Array, "an unexpected array")
    return _Array()


def _scalar(kind: Any, content: Any) -> None:
    _require(
        type(kind) is _ArrayType and type(content) is bytes and len(content) == kind.itemsize, "an unexpected number"
    )


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
    f"{RECONSTRUCT.__module__} {RECONSTRUCT.__name__}": _Function(_array),
    f"{SCALAR.__module__} {SCALAR.__name__}": _Function(_scalar),
}
