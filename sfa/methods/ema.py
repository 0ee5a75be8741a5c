"""An exponential moving average of the run's own weights (Polyak & Juditsky, 1992; Composer's formula)."""

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Fit, Look, Method
from sfa.schedule import Duration
from sfa.values import Interval

if TYPE_CHECKING:
    from composer.core import Algorithm


class EMA(Method):
    """The model after a task is the exponential moving average of its weights during the training."""

    name = "ema"
    look = Look("EMA", {"color": "#767676", "linestyle": "--", "marker": "<"})

    half_life: Interval = Field("0.1dur", description="training after which the weights of a step count half")

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.ema import EMA as Average

        return [Average(float(Duration.parse(self.half_life).in_steps(fit.total, fit.epoch)))]

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        return ["parallelism: must not be fsdp2, as ema holds a whole average on each rank"] if is_sharded else []
