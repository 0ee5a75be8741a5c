"""L2 regression towards θ_o, and the base class of penalties."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sfa.methods.base import Fit, Look, Method

if TYPE_CHECKING:
    from composer.core import Algorithm


class Penalized(Method):
    """A penalty on the distance to θ_o."""

    holds_anchor = True
    neutral = ("strength", 0)

    strength: float = Field(0.1, ge=0, description="λ")
    anchor_device: Literal["cpu", "device"] = "cpu"


class L2(Penalized):
    """λ/2·‖θ − θ_o‖² (eq. 1)."""

    name = "l2"
    look = Look("L2", {"color": "#009E73", "linestyle": ":", "marker": "s"})

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.penalty import Penalty

        return [Penalty("l2", self.strength, anchor_device=self.anchor_device)]
