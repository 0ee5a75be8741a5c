"""Provides θ_o to a fit, and ensures that it is the same on all ranks and when the fit resumes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.core import State
from composer.utils import dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sfa.anchor import Anchor, sum_over_ranks, trained_shards
from sfa.parallel import raise_together
from sfa.runs import weights_hash
from sfa.weights import read_shards

AT_START = "(weights at the start of the fit)"


class Origin:
    """θ_o over the lifetime of a Trainer: the model in a folder, or the weights at the start of the fit.

    Checkpoints do not contain θ_o, but its folder with a hash, and its norm; a resumed fit takes θ_o from that folder
    again, or from the model as it was built, before the checkpoint was loaded.

    Args:
        folder: folder of the model with the weights θ_o; ``None``: the weights at the start of the fit.
        device: ``"cpu"`` or ``"device"``, see :class:`sfa.anchor.Anchor`.
        built: the model is built with the weights in ``folder``, so the folder is not read.
        past: folders of further models; θ_o is then the mean of all of them.
    """

    def __init__(self, folder: str | None, device: str, built: bool = False, past: Sequence[str] = ()):
        self.folder = folder
        self.device = device
        self.past = past
        self.reads = folder is not None and not built
        self.norm: float | None = 0.0  # ‖θ_o‖; None: a checkpoint without it was loaded
        self.resumes = False  # a checkpoint was loaded, and the fit that continues it has not started yet
        self._built: Anchor | None = None

    def before_load(self, state: State) -> None:
        """At ``Event.BEFORE_LOAD``: copies the weights that the model was built with, before a checkpoint replaces
        them. All ranks call it."""
        # A model that is not sharded yet has no shards: its θ_o must come from a folder if the fit resumes.
        if not self.reads and not state.load_monolith_rank0_only:
            _broadcast_weights(state)
            self._built = Anchor(trained_shards(bare(state)), self.device)

    def fit_start(self, state: State) -> Anchor:
        """At ``Event.FIT_START``: θ_o. All ranks call it.

        Raises:
            ValueError: the fit resumes, and θ_o is not the one that its checkpoint was written with. Raised on all
                ranks, even if θ_o differs on only one.
        """
        module = bare(state)
        built, self._built = self._built, None  # never hold two copies
        if self.reads:
            anchor = Anchor(read_shards(module, Path(str(self.folder))), self.device)
        elif self.resumes and built is not None:
            anchor = built
        else:
            del built
            anchor = Anchor(trained_shards(module), self.device)
        for count, folder in enumerate(self.past, 2):
            anchor.average_in(read_shards(module, Path(folder)), count)
        norm = math.sqrt(sum_over_ranks(module, anchor.squared_norm()))
        raise_together(self._changed_anchor(norm))
        self.norm, self.resumes = norm, False
        return anchor

    def _changed_anchor(self, norm: float) -> ValueError | None:
        if not self.resumes or self.norm is None or math.isclose(norm, self.norm, rel_tol=1e-6, abs_tol=1e-12):
            return None
        return ValueError(
            "the anchor of the resumed fit is not the one its checkpoint was written with: its norm is "
            f"{norm:.6g} instead of {self.norm:.6g}. Build the model with the weights of the previous task before the "
            "checkpoint is loaded, or pass anchor=<folder of that model>."
        )

    def saved(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"anchor": self.folder, "anchor_hash": _folder_hash(self.folder), "anchor_norm": self.norm}

    def load(self, saved: dict[str, Any] | None) -> None:
        """Loads the output of :meth:`saved` from a checkpoint; ``None`` if it has none. All ranks call it.

        Raises:
            ValueError: the folder is a different one, or its files have changed.
        """
        error = None
        if saved is not None and saved["anchor_hash"] != _folder_hash(self.folder):
            then, now = saved["anchor"] or AT_START, self.folder or AT_START
            error = (
                f"the checkpoint was written with the anchor {then}, and {now} is a different one, "
                "or its files have changed"
            )
        raise_together(ValueError(error) if error else None)
        self.norm = saved["anchor_norm"] if saved is not None else None
        self.resumes = True


def bare(state: State) -> nn.Module:
    """The model without DDP's wrapper."""
    return state.model.module if isinstance(state.model, DistributedDataParallel) else state.model


def _broadcast_weights(state: State) -> None:
    """Broadcasts the trained weights of rank 0 if each rank holds the whole model. DDP does the same, but only when it
    wraps the model: after a checkpoint was loaded."""
    if dist.get_world_size() == 1 or state.fsdp_config is not None or state.tp_config is not None:
        return
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            dist.broadcast(parameter.detach(), 0)


def _folder_hash(folder: str | None) -> str | None:
    return None if folder is None else weights_hash(Path(folder))
