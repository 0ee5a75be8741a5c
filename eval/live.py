"""Context managers to evaluate a model during its training without changing its state."""

import contextlib
from collections.abc import Iterator

from composer.utils import reproducibility
from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restores each module's training mode and all random states: lm-eval changes both."""
    modes = {module: module.training for module in model.modules()}
    states = reproducibility.get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        reproducibility.load_rng_state(states)


@contextlib.contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gathers FSDP2's parameters, in its compute precision, for the duration of the block. Forward passes then need no
    communication, so ranks may run different numbers of them."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # torch 2.7 has no public API to keep gathered parameters after a forward pass.
    groups = [group for m in modules if (group := m._get_fsdp_state()._fsdp_param_group) is not None]
    after_forward = [group.post_forward_mesh_info for group in groups]
    for group in groups:
        group.post_forward_mesh_info = None
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for group, info in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = info
        for module in modules:
            module.reshard()
