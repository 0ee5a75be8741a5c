"""L1, L2 and EWC as a Composer algorithm: adds their gradients in place to those of the loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from sfa.anchor import Anchor, local, trained_shards
from sfa.fisher import Fisher
from sfa.penalties import Kind, add_gradient
from sfa.trainers.origin import Origin, bare
from sfa.weights import read_shards


class Penalty(Algorithm):
    """Adds a penalty on the distance to θ_o to every step's gradients, after the backward passes and before clipping
    and the optimizer's step. List it before gradient clipping.

    Each rank works on its own shards, so one process, DDP and FSDP2 behave alike and nothing is gathered.

    Args:
        kind: ``"l1"``, ``"l2"`` or ``"ewc"``.
        strength: λ, at least 0.
        anchor: folder of the model with the weights θ_o; ``None``: the weights at the start of the first fit.
        fishers: for EWC, the Fisher information of past tasks, each with the weights it was estimated at. Those with
            the same θ_o are added up (accumulated Fisher information); otherwise each pulls to its own θ_o.
        anchor_device: ``"cpu"`` keeps θ_o and the Fisher information in (pinned) host memory, ``"device"`` on the
            parameters' device.

    Raises:
        ValueError: ``strength`` is negative, or ``ewc`` lacks its Fisher information; at the start of a fit that
            resumes, θ_o is not the one that its checkpoint was written with.
    """

    def __init__(
        self,
        kind: Kind,
        strength: float,
        anchor: str | None = None,
        fishers: Sequence[Fisher] = (),
        anchor_device: Literal["cpu", "device"] = "cpu",
    ):
        if strength < 0:
            raise ValueError(f"the strength of a penalty must not be negative, not {strength}")
        if (kind == "ewc") != bool(fishers):
            raise ValueError("ewc requires Fisher information, and the other penalties do not accept it")
        self.kind: Kind = kind
        self.strength = strength
        self.fishers = list(fishers)
        self.anchor_device = anchor_device
        self._origin = Origin(anchor, anchor_device)
        self._pulls: list[tuple[Anchor, Anchor | None]] = []  # θ_o, F_o

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.BEFORE_LOAD, Event.FIT_START, Event.AFTER_TRAIN_BATCH)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_LOAD:
            self._origin.before_load(state)
        elif event == Event.FIT_START:
            if not self._pulls:  # later fits use the θ_o of the first
                self._fit_start(state)
        else:
            module = bare(state)
            shards, gradients = trained_shards(module), _gradients(module)
            for anchor, fisher in self._pulls:
                weight = fisher.shards if fisher is not None else None
                add_gradient(self.kind, self.strength, gradients, shards, anchor.shards, weight)

    def _fit_start(self, state: State) -> None:
        at_start, module = self._origin.fit_start(state), bare(state)
        if self.kind != "ewc":
            self._pulls = [(at_start, None)]
            return
        grouped: dict[str | None, dict[str, Tensor]] = {}
        for fisher in self.fishers:
            shards = fisher.shards(module, state)
            total = grouped.setdefault(fisher.anchor, shards)
            if total is not shards:
                torch._foreach_add_(list(total.values()), [shards[name] for name in total])
        self._pulls = [
            (
                at_start if path is None else Anchor(read_shards(module, Path(path)), self.anchor_device),
                Anchor(shards, self.anchor_device),
            )
            for path, shards in grouped.items()
        ]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "json": json.dumps(self._origin.saved() if self._pulls else None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "json" not in state:  # written before penalties kept a state
            self._origin.load(None)
        elif (saved := json.loads(state["json"])) is not None:
            self._origin.load(saved)


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    """This rank's shards of the gradients; a parameter that does not affect the loss gets a zero gradient."""
    gradients = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients[name] = local(parameter.grad)
    return gradients
