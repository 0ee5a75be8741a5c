"""A bias-corrected exponential moving average of the run's own weights (Block & Zhang, 2025, arXiv:2508.00180)."""

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Fit, Look, Method

if TYPE_CHECKING:
    from composer.core import Algorithm


class BEMA(Method):
    """The model after a task is the average of its weights during the training, plus a share of the way from the
    start."""

    name = "bema"
    look = Look("BEMA", {"color": "black", "linestyle": ":", "marker": "<"})

    ema_power: float = Field(0.5, ge=0, description="κ: the weights after step t enter with (ρ+γt)^−κ")
    bias_power: float = Field(0.2, ge=0, description="η: (ρ+γt)^−η of the way from the start is added")
    lag: float = Field(10, ge=1, description="ρ")
    multiplier: float = Field(1.0, gt=0, description="γ")

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.bema import BEMA as Average

        return [Average(self.ema_power, self.bias_power, self.lag, self.multiplier)]

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        return ["parallelism: must not be fsdp2, as bema holds whole averages on each rank"] if is_sharded else []
