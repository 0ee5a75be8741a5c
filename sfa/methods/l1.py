"""L1 regression towards θ_o."""

from typing import TYPE_CHECKING

from sfa.methods.base import Fit, Look
from sfa.methods.l2 import Penalized

if TYPE_CHECKING:
    from composer.core import Algorithm


class L1(Penalized):
    """λ·‖θ − θ_o‖₁."""

    name = "l1"
    look = Look("L1", {"color": "#56B4E9", "linestyle": "-.", "marker": "v"})

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.penalty import Penalty

        return [Penalty("l1", self.strength, anchor_device=self.anchor_device)]
