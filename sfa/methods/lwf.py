"""Learning without forgetting: distillation from θ_o on the new task's data (Li & Hoiem, 2016)."""

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Fit, Look, Method

if TYPE_CHECKING:
    from composer.core import Algorithm


class LwF(Method):
    """λ·T²·KL(p_o ‖ p) over the new task's learned tokens, with θ_o's distribution p_o and the model's, p."""

    name = "lwf"
    neutral = ("strength", 0)
    look = Look("LwF", {"color": "#0072B2", "linestyle": "-.", "marker": ">"})

    strength: float = Field(1.0, ge=0, description="λ")
    temperature: float = Field(2.0, gt=0, description="T, of both distributions")

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.distillation import Distillation

        return [Distillation(fit.anchor, self.strength, self.temperature)]

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        return ["parallelism: must not be fsdp2, as lwf holds a second whole model on each rank"] if is_sharded else []
