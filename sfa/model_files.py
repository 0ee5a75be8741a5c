"""Which files of a folder hold a model's weights: exactly those that ``transformers`` and ``peft`` would read."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sfa.errors import ModelFilesError

MODEL, INDEX, ADAPTERS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
Settings = dict[str, Any]  # the keys and values of a JSON file next to the weights
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The files of the model in a folder, each with the names of its tensors where an index lists them.

    With an ``adapter_config.json`` this is ``adapter_model.safetensors``; otherwise the file or index that
    ``config.json`` names as ``transformers_weights``, ``model.safetensors``, or what ``model.safetensors.index.json``
    lists, in this order. Other safetensors files in the folder (a moving average, a 16-bit copy) are not part of the
    model. In a folder without these names, all safetensors files form the model, and each tensor must occur once.

    A file may be a link, as in the hub's cache: its target is read and hashed.

    Raises:
        FileNotFoundError: the folder contains no safetensors files, or a listed one is missing.
        ModelFilesError: the index is damaged, or names a file that is not in the folder itself.
    """
    config = read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = config.get("transformers_weights")
    if (folder / "adapter_config.json").is_file():
        return {_file_in(folder, ADAPTERS, "a folder of adapters"): None}
    for name, where in ((named, "config.json"), (MODEL, ""), (INDEX, "")):
        if name is not None and (where or (folder / name).is_file()):
            file = _file_in(folder, name, where)
            return _read_index(file) if file.name.endswith(".index.json") else {file: None}
    return _all_safetensors(folder)


def refuse_special_files(folder: Path) -> None:
    """Raises a ModelFilesError for a pipe, socket or device in a folder, or a link to one: reading it could block."""
    for file in sorted(folder.iterdir()):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ModelFilesError(f"{file} is not a regular file")


def other_weights(file: Path) -> bool:
    """Whether a file contains or lists weights, which must not be copied next to a merged model."""
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
    return file.suffix in kinds or file.name.endswith(".index.json")


def _read_index(index: Path) -> dict[Path, set[str] | None]:
    """The files that an index lists, each with the names of its tensors."""
    folder, places = index.parent, read_settings(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelFilesError(f"{index} lists no files: its weight_map must map each tensor to a file")
    files: dict[Path, set[str] | None] = {}
    for file in sorted(set(places.values())):
        files[_file_in(folder, file, index.name)] = {name for name, place in places.items() if place == file}
    return files


def _file_in(folder: Path, name: Any, where: str) -> Path:
    """The path of a file directly in the folder.

    Raises:
        ModelFilesError: it would be outside the folder, where nothing is hashed.
        FileNotFoundError: it does not exist.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ModelFilesError(
            f"{where} of {folder} names {name!r}: weights must be in the folder itself; move them there"
        )
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} lacks {name}" + (f", which {where} names" if where else ""))
    return folder / name


def _all_safetensors(folder: Path) -> dict[Path, set[str] | None]:
    """All safetensors files of a folder without standard names; a model in numbered shards must be complete."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors files")
    shards = [shard for shard in (_SHARD.fullmatch(file.name) for file in files) if shard]
    for (stem, total), count in Counter((shard[1], shard[3]) for shard in shards).items():
        if count != int(total):
            raise FileNotFoundError(f"{folder} contains {count} of the {int(total)} files of {stem}")
    return dict.fromkeys(files)


def read_settings(file: Path) -> Settings:
    """The keys and values in a JSON file.

    Raises:
        ModelFilesError: it contains something else.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFilesError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelFilesError(f"{file} must contain keys and values")
    return settings
