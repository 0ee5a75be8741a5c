"""The weights that a trainer trains, as tensors in full precision that are merged in place.

Parameters in float32 or float64 are merged as they are. For parameters in 16 bits without masters, as transformers
loads them and TRL makes adapters, a float32 shadow of θ carries what 16 bits cannot: before a merge it takes over the
change since the last one, and after the merge it is rounded into the parameter. DeepSpeed has masters of its own, see
:mod:`sfa.trainers.deepspeed`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor

from sfa.anchor import local, replica_count

Read = Callable[[str], Tensor]  # a parameter's name to a whole tensor, of any dtype, in host memory

CHUNK = 2**24  # entries of a parameter that are converted at a time


class Live(Protocol):
    """This rank's part of a model under training."""

    def masters(self) -> dict[str, Tensor]:
        """This rank's trained tensors by name, float32 or float64, to be merged in place; then call :meth:`publish`."""

    def publish(self) -> None:
        """Writes the masters to the tensors that the model computes with and saves."""

    def read(self, whole: Read) -> dict[str, Tensor]:
        """Tensors of another model of this architecture, split as :meth:`masters`. All ranks call it.

        Raises:
            ValueError: a shape differs.
        """

    def replicas(self) -> int:
        """The number of ranks that hold the same masters."""

    @property
    def bytes(self) -> int:
        """Bytes that this rank needs for the masters in addition to the trainer's own memory."""

    @property
    def whole(self) -> bool:
        """Whether every master is a whole parameter under the parameter's name."""


def live(model: nn.Module, optimizer: Any = None, device: str = "cpu") -> Live:
    """The trained weights of a model in one process or under DDP, FSDP1, FSDP2 or DeepSpeed.

    Args:
        model: the model, or the wrapper that trains it, such as DeepSpeed's engine.
        optimizer: the trainer's optimizer, for DeepSpeed if ``model`` is not its engine.
        device: ``"cpu"`` keeps the shadow of 16-bit parameters in host memory, ``"device"`` on their device.

    Raises:
        ValueError: a trained parameter is in a precision that cannot be averaged.
    """
    from sfa.trainers.deepspeed import live as masters_of_zero

    return masters_of_zero(model, optimizer) or Parameters(model, device)


class Parameters:
    """Plain parameters: one process, DDP, FSDP1 and FSDP2."""

    def __init__(self, model: nn.Module, device: str = "cpu"):
        self._model = model
        self._on_host = device == "cpu"
        self._shadow: dict[str, Tensor] = {}
        for name, shard in _trained(model).items():
            if shard.dtype in (torch.bfloat16, torch.float16):
                self._shadow[name] = shard.to("cpu" if self._on_host else shard.device, torch.float32, copy=True)
            elif shard.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} is {shard.dtype}; weights in 16, 32 and 64 bits can be averaged")

    def masters(self) -> dict[str, Tensor]:
        shards = _trained(self._model)
        for name, shadow in self._shadow.items():
            _follow(shadow, shards[name])
        return {name: self._shadow.get(name, shard) for name, shard in shards.items()}

    @torch.no_grad()
    def publish(self) -> None:
        shards = _trained(self._model)
        for name, shadow in self._shadow.items():
            shards[name].copy_(shadow)

    def read(self, whole: Read) -> dict[str, Tensor]:
        masters = {name: master.dtype for name, master in self.masters().items()}
        if any(isinstance(module, FullyShardedDataParallel) for module in self._model.modules()):
            shards = self._read_fsdp1(whole)
        else:
            parameters = dict(self._model.named_parameters())
            shards = {name: _split(parameters[name], name, whole(name)) for name in masters}
        return {name: shards[name].to(dtype) for name, dtype in masters.items()}

    @torch.no_grad()
    def _read_fsdp1(self, whole: Read) -> dict[str, Tensor]:
        """Writes the tensors into the model, which alone knows how it is split, unit by unit, and restores its own."""
        own = {name: shard.clone() for name, shard in _trained(self._model).items()}
        units = {name: unit for name, unit in self._model.named_modules() if isinstance(unit, FullyShardedDataParallel)}
        for prefix, unit in units.items():
            inner = tuple(f"{plain(name)}." for name in units if name != prefix and name.startswith(prefix))
            with FullyShardedDataParallel.summon_full_params(unit, recurse=False):
                for name, parameter in unit.named_parameters(prefix):
                    if parameter.requires_grad and not plain(name).startswith(inner):
                        tensor = whole(name)
                        _check_shape(name, tensor, parameter)
                        parameter.copy_(tensor)
        read = {name: shard.clone() for name, shard in _trained(self._model).items()}
        for name, shard in _trained(self._model).items():
            shard.copy_(own[name])
        return read

    def replicas(self) -> int:
        return replica_count(self._model, ranks())

    @property
    def bytes(self) -> int:
        return sum(shadow.nbytes for shadow in self._shadow.values())

    @property
    def whole(self) -> bool:
        return self.replicas() == ranks() and not any(isinstance(p, DTensor) for p in self._model.parameters())


def ranks() -> int:
    """The number of ranks; 1 without ``torch.distributed``."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(live: Live, value: float) -> float:
    """Sum of a per-rank ``value`` over the whole model: shards add up, replicas count once. All ranks call it."""
    replicas = live.replicas()
    if replicas == ranks():
        return value
    device = "cuda" if "nccl" in distributed.get_backend() else "cpu"
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return float(summed) / replicas


def plain(name: str) -> str:
    """A parameter's name without what DDP, FSDP1, ``torch.compile`` and activation checkpointing put into it."""
    for part in ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."):
        name = name.replace(part, "")
    return name.removeprefix("module.")


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: local(p) for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}


@torch.no_grad()
def _follow(shadow: Tensor, parameter: Tensor) -> None:
    """Adds to the shadow what the parameter has changed since the shadow was last rounded into it."""
    pairs = [(shadow, parameter)]
    if shadow.numel() > CHUNK and shadow.is_contiguous() and parameter.is_contiguous():
        pairs = list(zip(shadow.view(-1).split(CHUNK), parameter.view(-1).split(CHUNK), strict=True))
    for carried, now in pairs:
        change = now.to(carried.device, torch.float32, copy=True)
        change -= carried.to(parameter.dtype).float()
        carried.add_(change)


def _split(parameter: Tensor, name: str, tensor: Tensor) -> Tensor:
    _check_shape(name, tensor, parameter)
    if not isinstance(parameter, DTensor):
        return tensor
    mesh = parameter.device_mesh
    split = distribute_tensor(tensor.to(parameter.device), mesh, parameter.placements, src_data_rank=None)
    return split.to_local().cpu()


def _check_shape(name: str, tensor: Tensor, parameter: Tensor) -> None:
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"the anchor does not fit the model at {name}: {tuple(tensor.shape)} against {tuple(parameter.shape)}"
        )
