"""Where θ_o of a fit comes from, and that it is the same when the fit resumes and on all ranks."""

import math
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
    """θ_o over the life of a Trainer: the model in a folder, or the weights at the start of the fit.

    θ_o is not in checkpoints. They name its folder, with a hash, and hold its norm; a fit that resumes takes θ_o from
    there again, or from the model as it was built, before the checkpoint was loaded.

    Args:
        folder: of the model that is θ_o; ``None``: the weights at the start of the fit.
        device: ``"cpu"`` or ``"device"``, see :class:`sfa.anchor.Anchor`.
        built: the model is built with the weights in ``folder``, which therefore is not read.
    """

    def __init__(self, folder: str | None, device: str, built: bool = False):
        self.folder = folder
        self.device = device
        self.reads = folder is not None and not built
        self.norm: float | None = 0.0  # ‖θ_o‖; None: a checkpoint was loaded that does not say it
        self.resumes = False  # a checkpoint was loaded, and the fit that continues it has not started yet
        self._built: Anchor | None = None

    def before_load(self, state: State) -> None:
        """At ``Event.BEFORE_LOAD``: if a checkpoint follows, the model now holds the weights it was built with for the
        last time. All ranks call it."""
        # A model that is yet to be sharded has no shards: its θ_o has to come from a folder if the fit resumes.
        if not self.reads and not state.load_monolith_rank0_only:
            _agree(state)
            self._built = Anchor(trained_shards(bare(state)), self.device)

    def fit_start(self, state: State) -> Anchor:
        """At ``Event.FIT_START``: θ_o. All ranks call it.

        Raises:
            ValueError: the fit resumes, and θ_o is not the one that its checkpoint was written with. So do all ranks,
                also if θ_o differs on one of them alone.
        """
        module = bare(state)
        built, self._built = self._built, None  # so that there are never two copies
        if self.reads:
            anchor = Anchor(read_shards(module, Path(str(self.folder))), self.device)
        elif self.resumes and built is not None:
            anchor = built
        else:
            del built
            anchor = Anchor(trained_shards(module), self.device)
        norm = math.sqrt(sum_over_ranks(module, anchor.squared_norm()))
        raise_together(self._another(norm))
        self.norm, self.resumes = norm, False
        return anchor

    def _another(self, norm: float) -> ValueError | None:
        if not self.resumes or self.norm is None or math.isclose(norm, self.norm, rel_tol=1e-6, abs_tol=1e-12):
            return None
        return ValueError(
            "the anchor of the resumed fit is not the one its checkpoint was written with: its norm is "
            f"{norm:.6g} instead of {self.norm:.6g}. Build the model with the weights of the previous task before the "
            "checkpoint is loaded, or pass anchor=<folder of that model>."
        )

    def saved(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"anchor": self.folder, "anchor_hash": _folder_hash(self.folder), "anchor_norm": self.norm}

    def load(self, saved: dict[str, Any] | None) -> None:
        """From a checkpoint, what :meth:`saved` gave, or ``None`` if it does not say. All ranks call it.

        Raises:
            ValueError: the folder is another, or its files have changed.
        """
        wrong = None
        if saved is not None and saved["anchor_hash"] != _folder_hash(self.folder):
            then, now = saved["anchor"] or AT_START, self.folder or AT_START
            wrong = (
                f"the checkpoint was written with the anchor {then}, and {now} is another, or its files have changed"
            )
        raise_together(ValueError(wrong) if wrong else None)
        self.norm = saved["anchor_norm"] if saved is not None else None
        self.resumes = True


def bare(state: State) -> nn.Module:
    """The model without DDP's wrapper."""
    return state.model.module if isinstance(state.model, DistributedDataParallel) else state.model


def _agree(state: State) -> None:
    """Gives all ranks the trained weights of rank 0 where each holds the whole model. DDP does so too, but only when it
    wraps the model: after a checkpoint was loaded."""
    if dist.get_world_size() == 1 or state.fsdp_config is not None or state.tp_config is not None:
        return
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            dist.broadcast(parameter.detach(), 0)


def _folder_hash(folder: str | None) -> str | None:
    return None if folder is None else weights_hash(Path(folder))
