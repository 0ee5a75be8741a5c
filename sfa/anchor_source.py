"""Where θ_o comes from: the weights at the start of a training, or a model in a folder or on the hub."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sfa import extras
from sfa.anchor import Anchor, buckets
from sfa.errors import MissingExtra
from sfa.live import Live, Read, plain, total
from sfa.model_files import weight_files
from sfa.tensors import locations, stored

PASS = "Pass anchor=<folder of the model, or of the adapters, that the training started from>."
AT_START = "the weights at the start of the training"
BLOCK = 2**24  # bytes that are hashed at a time


class Identity(TypedDict):
    """What a checkpoint records of θ_o: its folder or hub name, the hash of its files, and ‖θ_o‖."""

    anchor: str | None
    anchor_hash: str | None
    anchor_norm: float


def read(source: str, model: nn.Module, live: Live, device: str) -> Anchor:
    """θ_o from a model's folder, an adapter's folder or the hub, split as the model under training. All ranks call it.

    Raises:
        FileNotFoundError: the folder contains no model.
        ValueError: the model does not fit the one under training.
    """
    return Anchor(live.read(_reader(local_folder(source), model)), device)


def identity_of(source: str | None, anchor: Anchor, live: Live) -> Identity:
    """The identity of θ_o. All ranks call it."""
    square = sum(float(tensor.double().square().sum()) for (bucket,) in buckets(anchor.shards) for tensor in bucket)
    content = None if source is None else content_hash(local_folder(source))
    return Identity(anchor=source, anchor_hash=content, anchor_norm=math.sqrt(total(live, square)))


def check_same(saved: Identity, found: Identity) -> None:
    """Raises a ValueError if θ_o is not the one that a checkpoint was written with: its files have another content or,
    if it was not read from files both times, its norm differs by more than rounding in float64."""
    if saved["anchor_hash"] is not None and found["anchor_hash"] is not None:
        same = saved["anchor_hash"] == found["anchor_hash"]
    else:
        same = math.isclose(saved["anchor_norm"], found["anchor_norm"], rel_tol=1e-9, abs_tol=1e-12)
    if not same:
        then, now = saved["anchor"] or AT_START, found["anchor"] or AT_START
        raise ValueError(
            "the anchor of the resumed training is not the one that its checkpoint was written with: then "
            f"{then}, of norm {saved['anchor_norm']:.9g}, and now {now}, of norm {found['anchor_norm']:.9g}. {PASS}"
        )


def local_folder(source: str) -> Path:
    """A folder as it is, and a model on the hub after downloading its weights."""
    if Path(source).is_dir():
        return Path(source)
    if not extras.installed("huggingface_hub"):
        raise MissingExtra(f"{source} is not a folder, and models on the hub need huggingface_hub to be installed")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))


def content_hash(folder: Path) -> str:
    """SHA-256 of the names and contents of a model's weight files."""
    digests = {}
    for file in sorted(weight_files(folder)):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        digests[file.name] = digest.hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _reader(folder: Path, model: nn.Module) -> Read:
    """Reads one tensor of a folder at a time, by the name of a parameter in ``model``.

    Raises:
        ValueError: the folder lacks a trained parameter.
    """
    files, names = locations(folder), _stored_names(model)
    prefix = _prefix(names, files)
    if prefix is not None:
        places = {name: next(n for n in options if n in files) for name, options in _without(prefix, names).items()}
        return lambda name: stored(files[places[plain(name)]], places[plain(name)])
    state = _as_in_memory(folder, model)
    found = state.keys() or {name for name, options in names.items() if files.keys() & options}
    missing = [name for name in names if name not in found]
    if missing or not state:
        raise ValueError(f"the anchor does not fit the model: it lacks {missing[:3]} ({len(missing)} tensors)")
    return lambda name: state[plain(name)]


def _stored_names(model: nn.Module) -> dict[str, list[str]]:
    """The names under which each trained parameter may be stored: its own, those of parameters that are tied to it,
    and without the name of an adapter, which ``peft`` leaves out of its files."""
    adapters = {name for module in model.modules() for name in getattr(module, "peft_config", {})}
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(plain(name))
    named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            options = aliases[id(parameter)]
            for adapter in adapters:
                options = [
                    option.replace(f".modules_to_save.{adapter}.", ".").replace(f".{adapter}", "") for option in options
                ]
            named[plain(name)] = options
    return named


def _prefix(names: dict[str, list[str]], files: dict[str, Path]) -> str | None:
    """What a wrapper around the stored model puts before its names; ``None`` if the folder lacks a parameter."""
    parts = next(iter(names), "").split(".")
    for length in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:length])
        if all(any(option in files for option in options) for options in _without(prefix, names).values()):
            return prefix
    return None


def _without(prefix: str, names: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: [option.removeprefix(prefix) for option in options] for name, options in names.items()}


def _as_in_memory(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a folder as ``transformers`` names and shapes them in memory, for models whose files differ."""
    if not extras.installed("transformers"):
        return {}
    from transformers import PreTrainedModel
    from transformers.integrations import deepspeed

    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            kind: Any = next(c for c in type(module).__mro__ if not issubclass(c, FSDPModule))
            config = deepspeed._hf_deepspeed_config_weak_ref
            deepspeed.unset_hf_deepspeed_config()  # ZeRO-3 would split the model while it is read
            try:
                loaded, info = kind.from_pretrained(folder, dtype="float32", output_loading_info=True)
            finally:
                deepspeed._hf_deepspeed_config_weak_ref = config
            prefix = f"{plain(name)}." if name else ""
            drawn = set(info["missing_keys"])  # drawn at random
            return {plain(prefix + key): tensor for key, tensor in loaded.state_dict().items() if key not in drawn}
    return {}
