"""DeepSpeed's masters: ZeRO keeps float32 weights in the optimizer, split over the ranks, and copies them to the model.

Both are set. The masters alone would not be saved, and the model's copies alone would be overwritten by the next step.
Copying is what ends ZeRO's own step: stages 1 and 2 gather the split weights, stage 3 only those parameters that it
keeps whole on every rank (``stage3_param_persistence_threshold``). DeepSpeed is not imported: everything needed hangs
on its optimizer. Written for DeepSpeed 0.19.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfa.live import Live, Read


def live(model: Any, optimizer: Any = None) -> Live | None:
    """The masters of a model that DeepSpeed trains; ``None`` if it does not.

    Args:
        model: DeepSpeed's engine, or the model in it.
        optimizer: the trainer's optimizer if ``model`` is not the engine.

    Raises:
        ValueError: the masters are out of reach.
    """
    zero = _zero_optimizer([getattr(model, "optimizer", None), optimizer, getattr(optimizer, "optimizer", None)])
    is_engine = hasattr(model, "zero_optimization_stage")
    if zero is None:
        if any(hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id") for parameter in model.parameters()):
            raise ValueError("DeepSpeed trains this model: pass its engine, or its optimizer as optimizer=…")
        if is_engine and (model.bfloat16_enabled() or model.fp16_enabled()):
            raise ValueError("DeepSpeed's masters in 16 bits without ZeRO cannot be averaged: use ZeRO stage 1")
        return None
    module = model.module if is_engine else model
    masters = Zero3(module, zero) if hasattr(zero, "fp32_partitioned_groups_flat") else Zero12(module, zero)
    if any(flat.dtype != torch.float32 for flat in masters.masters().values()):
        raise ValueError("DeepSpeed's masters are in 16 bits: leave bf16_master_weights_and_grads out of its config")
    return masters


def _zero_optimizer(candidates: Sequence[Any]) -> Any:
    names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
    return next((each for each in candidates if any(hasattr(each, name) for name in names)), None)


class _Masters(ABC):
    """What the stages have in common: flat masters, each weight on one rank."""

    bytes = 0
    whole = False

    def __init__(self, module: nn.Module, zero: Any):
        self._module = module
        self._zero = zero

    @abstractmethod
    def _flat(self) -> list[Tensor]:
        """This rank's flat masters, a tensor per parameter group."""

    @abstractmethod
    def _load(self, parameter: Any, tensor: Tensor) -> None:
        """Sets this rank's masters of a parameter from a whole, flat tensor."""

    def masters(self) -> dict[str, Tensor]:
        return {f"group {number}": flat.data for number, flat in enumerate(self._flat())}

    @torch.no_grad()
    def read(self, whole: Read) -> dict[str, Tensor]:
        """Sets the masters, which alone know how they are split, and restores them."""
        own = {name: flat.clone() for name, flat in self.masters().items()}
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                tensor, shape = whole(name), getattr(parameter, "ds_shape", parameter.shape)
                if tensor.shape != shape:
                    raise ValueError(f"the anchor does not fit the model at {name}: {tensor.shape} against {shape}")
                self._load(parameter, tensor.float().flatten())
        read = {name: flat.clone() for name, flat in self.masters().items()}
        for name, flat in self.masters().items():
            flat.copy_(own[name])
        return read

    def replicas(self) -> int:
        return 1


class Zero12(_Masters):
    """Stages 1 and 2."""

    def _flat(self) -> list[Tensor]:
        name = "single_partition_of_fp32_groups"
        flat: list[Tensor] = getattr(self._zero, name if hasattr(self._zero, name) else "fp32_groups_flat_partition")
        return flat

    def _load(self, parameter: Any, tensor: Tensor) -> None:
        mapping = parameter._hp_mapping
        if mapping is not None:  # otherwise other ranks hold all of this parameter
            place = mapping.lp_fragment_address
            mapping.hp_fragment.copy_(tensor[place.start : place.start + place.numel])

    def publish(self) -> None:
        self._zero.update_lp_params()


class Zero3(_Masters):
    """Stage 3."""

    def __init__(self, module: nn.Module, zero: Any):
        super().__init__(module, zero)
        if zero.swap_optimizer or zero.params_in_nvme_and_cpu:
            raise ValueError("weights on NVMe cannot be averaged: offload to the CPU instead")

    def _flat(self) -> list[Tensor]:
        flat: list[Tensor] = self._zero.fp32_partitioned_groups_flat
        return flat

    def _load(self, parameter: Any, tensor: Tensor) -> None:
        fragment, _ = self._zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False)
        size, rank = fragment.numel(), self._zero._get_param_partition_rank(parameter)
        part = tensor[size * rank : size * (rank + 1)]  # the last rank's is filled up with zeros
        fragment[: part.numel()].copy_(part)

    def publish(self) -> None:
        zero = self._zero
        zero._partition_all_parameters()
        for number in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        zero.invalidate_secondary_tensor()
