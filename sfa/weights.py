"""Weights on disk: models in Hugging Face format, read and written whole or as shards."""

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
from sfa.store import seal
from sfa.tensors import buffers, locations


def save_model(model: Any, folder: Path) -> None:
    """Writes a ``transformers`` model as a Hugging Face folder (config, float32 safetensors), or its adapters alone;
    of any other module, its tensors. However the model is sharded, the folder is the one that a single process writes,
    byte for byte. All ranks call it; only rank 0 holds the whole, in CPU memory, and writes."""
    # Of adapters, the model under them is not gathered.
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
        for adapters in model.peft_config.values():  # a set, whose order is another in every process
            if isinstance(adapters.target_modules, set):
                adapters.target_modules = sorted(adapters.target_modules)
        # An embedding under adapters is the base model's, and still as it is there.
        model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, state_dict=state)


@contextlib.contextmanager
def _unsharded_classes(model: nn.Module) -> Iterator[None]:
    """Gives the modules back the classes that FSDP2 replaced, by whose names and modules ``transformers`` finds how
    tensors are named on disk."""
    sharded = {module: type(module) for module in model.modules() if isinstance(module, FSDPModule)}
    try:
        for module, kind in sharded.items():
            module.__class__ = kind.__bases__[1]  # (FSDPModule, the class)
        yield
    finally:
        for module, kind in sharded.items():
            module.__class__ = kind


def _tie(model: nn.Module, state: dict[str, Any]) -> None:
    """Makes one tensor of those entries of a whole state that are one tensor in ``model``. Gathered shards come as a
    copy for every name, and so do tensors brought from a GPU."""
    first: dict[int, Any] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if _plain(name) in state:
            state[_plain(name)] = first.setdefault(id(tensor), state[_plain(name)])


def full_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder, float32, named as the model in memory names them. A folder without a
    ``config.json`` gives the tensors of its safetensors files as they are named there."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        from sfa.families.models import read_model

        return dict(read_model(folder).state_dict())
    tensors: dict[str, Tensor] = {}
    for file in dict.fromkeys(locations(folder).values()):
        with safe_open(file, framework="pt") as stream:
            tensors |= {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    return tensors


def read_shards(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """This rank's shards of the model in ``folder``, split as ``module`` is. All ranks call it.

    The weights pass through ``module`` itself, which knows how it is sharded, and its own weights are put back.

    Raises:
        FileNotFoundError: ``folder`` holds no model.
        ValueError: the model in ``folder`` lacks a parameter that ``module`` trains, or has it in another shape.
    """
    broadcast = not any(isinstance(part, FullyShardedDataParallel) for part in module.modules())
    state: dict[str, Tensor] = {}
    error: Exception | None = None
    if dist.get_global_rank() == 0 or not broadcast:
        try:
            state = _named_as(module, full_state(folder), whole_shapes=broadcast)
        except Exception as raised:  # whatever it is, the other ranks must not wait for this one
            error = raised
    raise_together(error)
    shards = trained_shards(module)
    kept = {name: shard.clone() for name, shard in shards.items()}
    broadcast = broadcast and dist.get_world_size() > 1
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=broadcast, strict=False)
    set_model_state_dict(module, dict(state), options=options)
    read = {name: shard.clone() for name, shard in trained_shards(module).items()}
    with torch.no_grad():
        for name, shard in trained_shards(module).items():
            shard.copy_(kept[name])
    return read


def write_shards(module: nn.Module, shards: dict[str, Tensor], folder: Path) -> None:
    """Writes tensors that are split as the trained parameters of ``module`` are, like a model with these weights, whole
    or not at all. All ranks call it; the tensors pass through ``module``, whose own weights are put back."""
    own = trained_shards(module)
    kept = {name: shard.clone() for name, shard in own.items()}
    temporary = folder.with_name(f".{folder.name}")
    with torch.no_grad():
        for name, shard in own.items():
            shard.copy_(shards[name])
        save_model(getattr(module, "model", module), temporary)
        for name, shard in own.items():
            shard.copy_(kept[name])
    if dist.get_global_rank() == 0:
        seal(temporary)
        temporary.replace(folder)
    dist.barrier()


def write_alone(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes ``tensors``, named as the parameters of an unsharded stage's model, like a model with these weights, whole
    or not at all. One process calls it; the model is used up."""
    temporary = folder.with_name(f".{folder.name}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
        for buffer in model.buffers():  # they are not trained, so there is none of these numbers for them
            buffer.zero_()
    write_model(model.model, temporary)
    seal(temporary)
    temporary.replace(folder)


def _named_as(module: nn.Module, state: dict[str, Tensor], whole_shapes: bool) -> dict[str, Tensor]:
    """The trained parameters of ``module`` from ``state``, whose model it may wrap as a ComposerModel does. With FSDP1
    the parameters do not have their ``whole_shapes``."""
    trained = {
        _plain(name): parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    prefixes = {name[: -len(key)] for key in state for name in trained if name == key or name.endswith("." + key)}
    for prefix in sorted(prefixes, key=len):
        if all(name.removeprefix(prefix) in state for name in trained):
            found = {name: state[name.removeprefix(prefix)] for name in trained}
            for name, shape in trained.items():
                theirs = tuple(found[name].shape)
                if whole_shapes and theirs != shape:
                    raise ValueError(f"the anchor does not fit the model at {name}: {theirs} against {shape}")
            return found
    missing = [name for name in trained if not any(name == key or name.endswith("." + key) for key in state)]
    raise ValueError(f"the anchor does not fit the model: it lacks {missing[:3]} ({len(missing)} tensors)")


def _plain(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")


def distance(folder: Path, other: Path) -> float:
    """‖θ − θ'‖₂ between two models of one architecture on disk, summed in float64, one tensor in memory at a time:
    of their weights, without buffers such as running statistics.

    Raises:
        ValueError: the models do not have the same tensors.
        NotFinite: a tensor holds an infinite value or a NaN.
    """
    one, two = locations(folder), locations(other)
    if one.keys() != two.keys():
        raise ValueError(f"{folder} and {other} differ in tensors, for example {sorted(one.keys() ^ two.keys())[:3]}")
    total, still = 0.0, buffers(one)
    for name, file in one.items():
        if name in still:
            continue
        with safe_open(file, framework="pt") as a, safe_open(two[name], framework="pt") as b:
            part = float((a.get_tensor(name).double() - b.get_tensor(name).double()).square().sum())
        if not math.isfinite(part):
            raise NotFinite(f"the tensor {name} is not finite in {file} or {two[name]}")
        total += part
    return math.sqrt(total)
