"""Which files of a folder hold a model's weights: those that ``transformers`` and ``peft`` would read, and no other."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sfa.errors import ModelFilesError

MODEL, INDEX, ADAPTERS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The files of the model in a folder, each with the names of its tensors where an index lists them.

    With an ``adapter_config.json`` that is ``adapter_model.safetensors``; else the file or index that ``config.json``
    names as ``transformers_weights``, ``model.safetensors``, or what ``model.safetensors.index.json`` lists, in this
    order. Other safetensors files beside them (a moving average, a copy in 16 bits) are not the model. A folder with
    none of these names is taken as a whole: all its safetensors files, in which each tensor must be once.

    A file may be a link, as in the hub's cache: it is read, and hashed, as what it points to.

    Raises:
        FileNotFoundError: the folder holds no safetensors files, or lacks one that is listed.
        ModelFilesError: the index is damaged, or names a file that is not in the folder itself.
    """
    config = read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = config.get("transformers_weights")
    if (folder / "adapter_config.json").is_file():
        return {_own(folder, ADAPTERS, "a folder of adapters"): None}
    for name, where in ((named, "config.json"), (MODEL, ""), (INDEX, "")):
        if name is not None and (where or (folder / name).is_file()):
            file = _own(folder, name, where)
            return _listed(file) if file.name.endswith(".index.json") else {file: None}
    return _unnamed(folder)


def refuse_special_files(folder: Path) -> None:
    """Raises a ModelFilesError for a pipe, socket or device in a folder, or a link to one: reading it may never end."""
    for file in sorted(folder.iterdir()):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ModelFilesError(f"{file} is no regular file")


def other_weights(file: Path) -> bool:
    """Whether a file holds weights, or lists them: what must not lie beside a merged model unmerged."""
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
    return file.suffix in kinds or file.name.endswith(".index.json")


def _listed(index: Path) -> dict[Path, set[str] | None]:
    """What an index lists."""
    folder, places = index.parent, read_settings(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelFilesError(f"{index} lists no files: its weight_map must give the file of each tensor")
    found: dict[Path, set[str] | None] = {}
    for file in sorted(set(places.values())):
        found[_own(folder, file, index.name)] = {name for name, place in places.items() if place == file}
    return found


def _own(folder: Path, name: Any, where: str) -> Path:
    """A file of the folder itself.

    Raises:
        ModelFilesError: it would lie elsewhere, where nothing is hashed.
        FileNotFoundError: it is not there.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ModelFilesError(
            f"{where} of {folder} names {name!r}: weights must lie in the folder itself; move them there"
        )
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} lacks {name}" + (f", which {where} names" if where else ""))
    return folder / name


def _unnamed(folder: Path) -> dict[Path, set[str] | None]:
    """All files of a folder without a standard name; of a model in numbered parts, all parts must be there."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors files")
    parts = [part for part in (_SHARD.fullmatch(file.name) for file in files) if part]
    for (stem, total), count in Counter((part[1], part[3]) for part in parts).items():
        if count != int(total):
            raise FileNotFoundError(f"{folder} holds {count} of the {int(total)} files of {stem}")
    return dict.fromkeys(files)


def read_settings(file: Path) -> dict[str, Any]:
    """The keys and values in a JSON file.

    Raises:
        ModelFilesError: it holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFilesError(f"{file} is no whole JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelFilesError(f"{file} must hold keys and values")
    return found
