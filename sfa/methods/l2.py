"""L2 regression towards θ_o, and the base class of penalties."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from sfa.methods.base import Fit, Look, Method

if TYPE_CHECKING:
    from composer.core import Algorithm

    from sfa.fisher import Fisher
    from sfa.penalties import Kind


class Penalized(Method):
    """A penalty on the distance to θ_o.

    Attributes:
        kind: its formula.
    """

    kind: "ClassVar[Kind]"
    holds_anchor = True
    neutral = ("strength", 0)

    strength: float = Field(0.1, ge=0, description="λ")
    anchor_device: Literal["cpu", "device"] = "cpu"

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.penalty import Penalty

        return [Penalty(self.kind, self.strength, fishers=self.fishers(fit), anchor_device=self.anchor_device)]

    def fishers(self, fit: Fit) -> "list[Fisher]":
        """The Fisher information of the past tasks, if the formula contains it."""
        return []


class L2(Penalized):
    """λ/2·‖θ − θ_o‖² (eq. 1)."""

    name = "l2"
    kind = "l2"
    look = Look("L2", {"color": "#009E73", "linestyle": "--", "marker": "s"})
