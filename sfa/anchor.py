"""θ_o, the weights of the previous task, held as exactly this rank's shards.

Everything here works on local tensors: a plain parameter is its own shard, a DTensor (FSDP2) gives its local shard, and
FSDP1 exposes its shards as ordinary parameters. So one code path serves one process, DDP, FSDP1 and FSDP2, and neither
capturing, merging nor measuring communicates.
"""

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

# Size of a bucket. Large enough to amortize kernel launches; in host memory small enough for the cache, so that a
# bucket processed by several kernels is read from memory once.
HOST_BYTES, DEVICE_BYTES = 2 * 2**20, 64 * 2**20


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of ``tensor``, detached, sharing its memory."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.data


def trained_shards(model: nn.Module) -> dict[str, Tensor]:
    """This rank's shards of the trained parameters, by name, without frozen parameters and buffers.

    Raises:
        ValueError: a trained parameter is not float32 or float64. Averaging needs master weights in full
            precision: in bfloat16, steps smaller than 1/256 of a weight are lost, so repeated merges stall before
            they reach θ_o.
    """
    shards = {name: local(p) for name, p in model.named_parameters() if p.requires_grad}
    for name, shard in shards.items():
        if shard.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"SFA averages master weights, and {name} is {shard.dtype}: keep the parameters in float32 and let "
                "autocast or FSDP's mixed precision compute in bfloat16. In bfloat16 repeated merges stall: after 20 "
                "merges at β=0.25 about 0.8% of the distance to the anchor remains instead of 0.3%."
            )
    return shards


def sum_over_ranks(model: nn.Module, value: float) -> float:
    """Sum of a per-rank ``value`` over the whole model: shards add up, replicas count once."""
    ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    replicas = replica_count(model, ranks)
    if replicas == ranks:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=next(model.parameters()).device)
    distributed.all_reduce(total)
    return float(total) / replicas


def replica_count(model: nn.Module, ranks: int) -> int:
    """The number of ranks that hold the same shard."""
    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            shards = [mesh.size(i) for i, placement in enumerate(parameter.placements) if isinstance(placement, Shard)]
            return ranks // math.prod(shards)
    return 1 if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()) else ranks


class Anchor:
    """θ_o for one rank: a copy of its shards, merged into the model in place.

    Args:
        shards: this rank's trained tensors by name, any shapes (empty ones too), float32 or float64.
        device: ``"device"`` keeps θ_o on the parameters' device. ``"cpu"`` keeps it in host memory, pinned if the
            parameters are on a GPU, so that it takes no device memory.
    """

    def __init__(self, shards: dict[str, Tensor], device: str = "cpu"):
        self.shards = {name: _copy(shard, device) for name, shard in shards.items()}

    @property
    def bytes(self) -> int:
        """Bytes of θ_o on this rank."""
        return sum(shard.nbytes for shard in self.shards.values())

    @torch.no_grad()
    def merge_into(self, shards: dict[str, Tensor], beta: float) -> None:
        """θ ← β·θ_o + (1−β)·θ in place (Algorithm 1; eq. 5), without communication, and bucket by bucket if θ_o
        must be copied to a GPU.

        Args:
            shards: the parameters' shards, as from :func:`trained_shards`.
            beta: weight of θ_o, in [0, 1]. 0 changes nothing and 1 sets θ to θ_o, both bitwise.

        Raises:
            ValueError: names, shapes or dtypes differ from θ_o's.
        """
        check_same(shards, self.shards)
        if shards and all(shard.device == self.shards[name].device for name, shard in shards.items()):
            torch._foreach_lerp_(list(shards.values()), [self.shards[name] for name in shards], beta)
            return
        for theta, theta_o in buckets(shards, self.shards):
            torch._foreach_lerp_(theta, theta_o, beta)

    @torch.no_grad()
    def measure_and_merge(self, shards: dict[str, Tensor], beta: float | Mapping[str, float]) -> float:
        """:meth:`merge_into`, with one β or one for each tensor, and returns ‖θ − θ_o‖² before the merge, over this
        rank's shards; sums of buckets are added in float64. One pass: each bucket is measured while it is in the cache,
        or on the GPU. Add the ranks' values before taking the root; the merge with one β multiplies the distance by
        (1−β)."""
        total: Any = 0.0
        check_same(shards, self.shards)
        scratch = torch.empty(HOST_BYTES, dtype=torch.uint8)
        for weight, part in _by_weight(shards, beta).items():
            for theta, theta_o in buckets(part, self.shards):
                total += _squared_distance(theta, theta_o, scratch)
                torch._foreach_lerp_(theta, theta_o, weight)
        return float(total)

    @torch.no_grad()
    def squared_distance(self, shards: dict[str, Tensor]) -> float:
        """‖θ − θ_o‖² over this rank's shards; sums of buckets are added in float64."""
        check_same(shards, self.shards)
        scratch = torch.empty(HOST_BYTES, dtype=torch.uint8)
        return float(sum(_squared_distance(theta, theta_o, scratch) for theta, theta_o in buckets(shards, self.shards)))

    @torch.no_grad()
    def average_in(self, shards: dict[str, Tensor], count: int) -> None:
        """Makes θ_o, the mean of ``count`` − 1 models, that of one more."""
        check_same(shards, self.shards)
        for theta_o, other in buckets(self.shards, shards):
            torch._foreach_lerp_(theta_o, other, 1 / count)

    @torch.no_grad()
    def squared_norm(self) -> float:
        """‖θ_o‖² over this rank's shards; sums of buckets are added in float64."""
        return float(sum(_squared(theta_o) for (theta_o,) in buckets(self.shards)))


def buckets(*tensors: dict[str, Tensor]) -> Iterator[list[list[Tensor]]]:
    """Iterates over several sets of tensors with the same names and shapes in parallel, in buckets of at most
    ``HOST_BYTES``, or ``DEVICE_BYTES`` on a GPU, each on the device of the first set's tensors. Tensors larger than a
    bucket are split into flat pieces. Tensors already on that device are not copied."""
    for device in dict.fromkeys(tensor.device for tensor in tensors[0].values()):
        first = {name: tensor for name, tensor in tensors[0].items() if tensor.device == device}
        yield from _buckets_on(device, first, tensors)


def _buckets_on(
    device: torch.device, first: dict[str, Tensor], tensors: tuple[dict[str, Tensor], ...]
) -> Iterator[list[list[Tensor]]]:
    """:func:`buckets` of those tensors in ``first``, which are on one device."""
    size = HOST_BYTES if device.type == "cpu" else DEVICE_BYTES
    bucket: list[list[Tensor]] = [[] for _ in tensors]
    free = size
    for name, shard in first.items():
        entry = [each[name] for each in tensors]
        for pieces in _split(name, entry, size) if shard.nbytes > size else (entry,):
            if pieces[0].nbytes > free:
                yield bucket
                bucket, free = [[] for _ in tensors], size
            for members, piece in zip(bucket, pieces, strict=True):
                members.append(piece if piece.device == device else piece.to(device, non_blocking=True))
            free -= pieces[0].nbytes
    if bucket[0]:
        yield bucket


def _by_weight(shards: dict[str, Tensor], beta: float | Mapping[str, float]) -> dict[float, dict[str, Tensor]]:
    """The tensors of each β."""
    if not isinstance(beta, Mapping):
        return {beta: shards}
    parts: dict[float, dict[str, Tensor]] = {}
    for name, shard in shards.items():
        parts.setdefault(beta[name], {})[name] = shard
    return parts


def check_same(shards: dict[str, Tensor], anchor: dict[str, Tensor]) -> None:
    """Raises a ValueError naming the first tensors in which θ and θ_o differ by name, shape or dtype."""
    missing, extra = sorted(shards.keys() - anchor.keys()), sorted(anchor.keys() - shards.keys())
    if missing or extra:
        raise ValueError(
            f"the anchor does not fit the model: it lacks {missing[:3]} ({len(missing)} tensors) and has "
            f"{extra[:3]} ({len(extra)} tensors) that the model does not train"
        )
    for name, shard in shards.items():
        theta_o = anchor[name]
        if shard.shape != theta_o.shape or shard.dtype != theta_o.dtype:
            raise ValueError(
                f"the anchor does not fit the model at {name}: {tuple(theta_o.shape)} {theta_o.dtype} against "
                f"{tuple(shard.shape)} {shard.dtype}"
            )


def _copy(shard: Tensor, device: str) -> Tensor:
    if device != "cpu" or shard.device.type != "cuda":
        return shard.clone(memory_format=torch.contiguous_format)
    pinned = torch.empty(shard.shape, dtype=shard.dtype)
    if pinned.nbytes:
        _pin(pinned)
    pinned.copy_(shard)
    return pinned


def _pin(tensor: Tensor) -> None:
    """Pins host memory, so that a GPU copies from it at full bus speed. ``pin_memory=True`` would take up to twice the
    memory: torch rounds pinned allocations up to powers of two."""
    runtime: Any = torch.cuda.cudart()
    torch.cuda.check_error(int(runtime.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0)))
    weakref.finalize(tensor, runtime.cudaHostUnregister, tensor.data_ptr())


def _split(name: str, tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError(f"{name} is not contiguous in memory; contiguous parameters are merged in place")
    flat, step = [tensor.view(-1) for tensor in tensors], size // tensors[0].element_size()
    for start in range(0, len(flat[0]), step):
        yield tuple(tensor[start : start + step] for tensor in flat)


def _squared_distance(theta: list[Tensor], theta_o: list[Tensor], scratch: Tensor) -> Any:
    """:func:`_squared` of θ − θ_o, which in host memory is computed tensor by tensor in ``scratch``. Allocating tensors
    would fragment the heap until it has grown by the size of the model."""
    if theta[0].device.type != "cpu":
        return _squared(torch._foreach_sub(theta, theta_o))
    total = 0.0
    for new, old in zip(theta, theta_o, strict=True):
        difference = scratch[: new.nbytes].view(new.dtype).view(new.shape)
        total += _squared([torch.sub(new, old, out=difference)])
    return total


def _squared(tensors: Sequence[Tensor]) -> Any:
    """‖·‖² of several tensors together: a number on CPU; on a GPU a float64 scalar, without synchronizing."""
    if tensors[0].device.type != "cpu":
        return torch.stack([norm.double() for norm in torch._foreach_norm(list(tensors))]).square().sum()
    return sum(float(torch.dot(flat, flat)) for flat in map(torch.flatten, tensors))  # twice as fast as a norm there
