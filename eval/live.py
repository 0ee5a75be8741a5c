"""A model in the middle of its training, lent to an evaluation and given back as it was."""

import contextlib
from collections.abc import Iterator

from composer.utils import reproducibility
from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts back each module's training mode and all random states: lm-eval changes both."""
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
    """Gathers FSDP2's parameters, in its compute precision, and keeps them while inside. Forward passes then need no
    communication, so ranks may do different numbers of them."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # torch 2.7 has no public way to stop a module from dropping its gathered parameters after a forward pass.
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
