"""Weights on disk: reads and writes models in Hugging Face format, whole or as shards."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from sfa.anchor import trained_shards
from sfa.errors import NotFinite
from sfa.parallel import raise_together
from sfa.store import write_checksums
from sfa.tensors import buffers, locations

PART = 2**25  # entries of a tensor that are compared at a time; an embedding alone may have hundreds of millions


def save_model(model: Any, folder: Path) -> None:
    """Writes a ``transformers`` model as a Hugging Face folder (config, float32 safetensors), or only its
    adapters; of any other module, its tensors. The folder is byte for byte the one that a single process writes,
    however the model is sharded. All ranks call it; only rank 0 holds the whole model, in CPU memory, and writes."""
    # For adapters, the base model is not gathered.
    adapters = hasattr(model, "peft_config")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapters)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    if dist.get_global_rank() == 0:
        _tie(model, state)
        if hasattr(model, "save_pretrained"):
            with _unsharded_classes(model):
                write_model(model, folder, state)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            first = {id(tensor): name for name, tensor in reversed(state.items())}
            save_file({name: state[name] for name in first.values()}, folder / "model.safetensors")
    dist.barrier()


def write_model(model: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Writes a ``transformers`` model or its adapters in one process: its own tensors, or ``state``, by name."""
    if hasattr(model, "peft_config"):
        for adapters in model.peft_config.values():  # a set, whose order differs between processes
            if isinstance(adapters.target_modules, set):
                adapters.target_modules = sorted(adapters.target_modules)
        # An embedding under adapters is the base model's, and unchanged.
        model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, state_dict=state)


@contextlib.contextmanager
def _unsharded_classes(model: nn.Module) -> Iterator[None]:
    """Restores the classes that FSDP2 replaced, by whose names ``transformers`` determines the names of tensors on
    disk."""
    sharded = {module: type(module) for module in model.modules() if isinstance(module, FSDPModule)}
    try:
        for module, kind in sharded.items():
            module.__class__ = kind.__bases__[1]  # (FSDPModule, the class)
        yield
    finally:
        for module, kind in sharded.items():
            module.__class__ = kind


def _tie(model: nn.Module, state: dict[str, Any]) -> None:
    """Ties those entries of a full state that are one tensor in ``model``: gathering shards, or copying from a GPU,
    makes a copy for every name."""
    first: dict[int, Any] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if _plain(name) in state:
            state[_plain(name)] = first.setdefault(id(tensor), state[_plain(name)])


def full_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder, float32, named as in the model in memory. For a folder without a
    ``config.json``, names are those in its safetensors files."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        from sfa.models.stored import read_model

        return dict(read_model(folder).state_dict())
    tensors: dict[str, Tensor] = {}
    for file in dict.fromkeys(locations(folder).values()):
        with safe_open(file, framework="pt") as stream:
            tensors |= {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    return tensors


def read_shards(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """This rank's shards of the model in ``folder``, split as ``module`` is. All ranks call it.

    The weights are loaded into ``module`` itself to shard them, and its own weights are restored afterwards.

    Raises:
        FileNotFoundError: ``folder`` contains no model.
        ValueError: the model in ``folder`` lacks a parameter that ``module`` trains, or has a different shape.
    """
    broadcast = not any(isinstance(child, FullyShardedDataParallel) for child in module.modules())
    state: dict[str, Tensor] = {}
    error: Exception | None = None
    if dist.get_global_rank() == 0 or not broadcast:
        try:
            state = _named_as(module, full_state(folder), whole_shapes=broadcast)
        except Exception as raised:  # in any case, the other ranks must not wait for this one
            error = raised
    raise_together(error)
    shards = trained_shards(module)
    original = {name: shard.clone() for name, shard in shards.items()}
    broadcast = broadcast and dist.get_world_size() > 1
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=broadcast, strict=False)
    set_model_state_dict(module, dict(state), options=options)
    read = {name: shard.clone() for name, shard in trained_shards(module).items()}
    with torch.no_grad():
        for name, shard in trained_shards(module).items():
            shard.copy_(original[name])
    return read


def write_shards(module: nn.Module, shards: dict[str, Tensor], folder: Path) -> None:
    """Writes tensors that are sharded like the trained parameters of ``module``, as a model with these weights,
    atomically. All ranks call it; the tensors are loaded into ``module``, whose own weights are restored."""
    parameters = trained_shards(module)
    original = {name: shard.clone() for name, shard in parameters.items()}
    temporary = folder.with_name(f".{folder.name}")
    with torch.no_grad():
        for name, shard in parameters.items():
            shard.copy_(shards[name])
        save_model(getattr(module, "model", module), temporary)
        for name, shard in parameters.items():
            shard.copy_(original[name])
    if dist.get_global_rank() == 0:
        write_checksums(temporary)
        temporary.replace(folder)
    dist.barrier()


def write_in_one_process(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes ``tensors``, named like the parameters of an unsharded stage's model, as a model with these weights,
    atomically. One process calls it; the model is overwritten."""
    temporary = folder.with_name(f".{folder.name}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
        for buffer in model.buffers():  # buffers are not trained, so they have no such values
            buffer.zero_()
    write_model(model.model, temporary)
    write_checksums(temporary)
    temporary.replace(folder)


def _named_as(module: nn.Module, state: dict[str, Tensor], whole_shapes: bool) -> dict[str, Tensor]:
    """The trained parameters of ``module`` from ``state``; ``module`` may wrap that model, as a ComposerModel does.
    ``whole_shapes``: whether parameters have their full shapes, which is not so with FSDP1."""
    trained = {
        _plain(name): parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    prefixes = {name[: -len(key)] for key in state for name in trained if name == key or name.endswith("." + key)}
    for prefix in sorted(prefixes, key=len):
        if all(name.removeprefix(prefix) in state for name in trained):
            tensors = {name: state[name.removeprefix(prefix)] for name in trained}
            for name, shape in trained.items():
                anchor_shape = tuple(tensors[name].shape)
                if whole_shapes and anchor_shape != shape:
                    raise ValueError(f"the anchor does not fit the model at {name}: {anchor_shape} against {shape}")
            return tensors
    missing = [name for name in trained if not any(name == key or name.endswith("." + key) for key in state)]
    raise ValueError(f"the anchor does not fit the model: it lacks {missing[:3]} ({len(missing)} tensors)")


def _plain(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")


def distance(folder: Path, other: Path) -> float:
    """‖θ − θ'‖₂ between the weights of two models of one architecture on disk, without buffers such as running
    statistics, summed in float64, with one tensor in memory at a time.

    Raises:
        ValueError: the models do not have the same tensors.
        NotFinite: a tensor contains an infinite value or a NaN.
    """
    files, other_files = locations(folder), locations(other)
    if files.keys() != other_files.keys():
        odd = sorted(files.keys() ^ other_files.keys())
        raise ValueError(f"{folder} and {other} differ in tensors, for example {odd[:3]}")
    total, excluded = 0.0, buffers(files)
    for name, file in files.items():
        if name in excluded:
            continue
        with safe_open(file, framework="pt") as a, safe_open(other_files[name], framework="pt") as b:
            parts = zip(*(stream.get_tensor(name).flatten().split(PART) for stream in (a, b)), strict=True)
            square = sum(float((one.double() - other.double()).square().sum()) for one, other in parts)
        if not math.isfinite(square):
            raise NotFinite(f"the tensor {name} is not finite in {file} or {other_files[name]}")
        total += square
    return math.sqrt(total)
