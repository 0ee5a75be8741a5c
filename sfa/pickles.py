"""What a checkpoint's pickles would import, found without importing or running any of it."""

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

# All that the checkpoints of this suite hold: tensors, arrays and plain containers.
HARMLESS = re.compile(
    r"_codecs encode|builtins (set|frozenset|bytearray|complex|slice)|collections (OrderedDict|defaultdict|deque)"
    r"|datetime timedelta|numpy (dtype|ndarray)|numpy\._?core\.(multiarray|numeric) (_reconstruct|scalar|_frombuffer)"
    r"|numpy\.dtypes \w+|pathlib (Posix)?Path|torch (\w+Storage|Size|device|[a-z]+[0-9]+\w*|bool)"
    r"|torch\._utils _rebuild_\w+|torch\.storage (Typed|Untyped)Storage|torch\.torch_version TorchVersion"
    r"|torch\.distributed\.checkpoint\.(metadata|planner|filesystem) \w+|torch\.serialization _get_layout"
)


def foreign(file: Path) -> str | None:
    """The first thing that the pickles in ``file`` would import beside tensors, arrays and containers, as ``module
    name``; ``None`` if there is none.

    Args:
        file: a pickle, or a zip archive of them as ``torch.save`` writes it.

    Raises:
        pickle.UnpicklingError: a pickle is torn, or is none.
    """
    if not zipfile.is_zipfile(file):
        return _foreign(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        found = (_foreign(archive.read(name)) for name in archive.namelist() if name.endswith(".pkl"))
        return next((name for name in found if name is not None), None)


def _foreign(content: bytes) -> str | None:
    try:
        _Reader(io.BytesIO(content)).load()
    except _Foreign as error:
        return str(error)
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise pickle.UnpicklingError(str(error)) from error
    return None


class _Foreign(Exception):
    pass


class _Inert:
    """Stands for whatever a pickle names: takes any arguments and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __call__(self, *arguments: Any, **named: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = add = __call__


class _Enum(_Inert):
    """Stands for the one enum in the metadata of sharded checkpoints."""


def _member(thing: Any, name: str) -> _Inert:
    """How Python before 3.11.4 pickles a member of an enum: by ``getattr``, which could reach anything elsewhere."""
    if thing is not _Enum or not re.fullmatch("[A-Z_]+[A-Z]", name):
        raise _Foreign("builtins getattr")
    return _Inert()


class _Reader(pickle.Unpickler):
    """Unpickles into inert objects alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module, name) == ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"):
            return _Enum
        if not HARMLESS.fullmatch(f"{module} {name}"):
            raise _Foreign(f"{module} {name}")
        return _Inert

    def persistent_load(self, key: Any) -> Any:
        return _Inert()
