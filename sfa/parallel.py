"""One process, DDP or FSDP2."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from composer.utils import FSDP2Config, dist, get_device
from filelock import Timeout
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sfa import store

log = logging.getLogger(__name__)


def join(device: str | None = None) -> None:
    """Joins the ranks that the launcher started, and gives each its share of the machine's cores; otherwise every rank
    would use all of them and compete with the others. ``OMP_NUM_THREADS`` overrides this.

    Args:
        device: ``cpu`` or ``gpu``; defaults to a GPU if there is one.
    """
    if dist.is_initialized():
        return
    dist.initialize_dist(get_device(device))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // dist.get_local_world_size()))


@contextlib.contextmanager
def exclusively(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock on ``folder`` while any rank is inside. If another process holds it, this is reported with
    ``report``, and all ranks wait."""
    if dist.get_global_rank() != 0:
        dist.barrier()
        yield
        return
    lock = store.lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another process that makes {folder.name}")
        lock.acquire()
    with lock:
        lock.release()  # the context holds it a second time
        dist.barrier()
        yield


def raise_together(error: Exception | None) -> None:
    """Raises on all ranks if there is an ``error`` on any, so that no rank waits for a failed one. All ranks call it.

    Raises:
        Exception: this rank's error.
        ValueError: with the message of another rank's error, if this rank has none.
    """
    messages = dist.all_gather_object(None if error is None else str(error))
    if error is not None:
        raise error
    for message in messages:
        if message is not None:
            raise ValueError(message)


def parallelism_config(parallelism: str, checkpoint: str) -> dict[str, Any] | None:
    """The argument of Composer's Trainer. DDP needs none: the Trainer uses it whenever there are several ranks."""
    # The key is "fsdp" for version 2 as well; {"fsdp2": …} is ignored by Composer 0.32 and trains with DDP.
    return {"fsdp": FSDP2Config(state_dict_type=checkpoint)} if parallelism == "fsdp2" else None


def average_gradients_on_gloo(model: nn.Module) -> None:
    """Makes FSDP2 average gradients on CPU.

    FSDP2 requests an averaging reduce-scatter, which gloo (torch 2.7) silently computes as a sum: every gradient is
    ``world_size`` times too large. Adam hides that, SGD, clipping and penalties do not. NCCL averages correctly.
    """
    ranks = dist.get_world_size()
    if ranks == 1 or torch.distributed.get_backend() != "gloo":
        return
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]

    def divide(gradient: Tensor) -> None:
        gradient.div_(ranks)

    for module in modules:
        module.set_all_reduce_hook(divide)
    if modules and dist.get_global_rank() == 0:
        log.info("FSDP2 on gloo sums gradients; they are divided by the number of ranks, %d", ranks)
