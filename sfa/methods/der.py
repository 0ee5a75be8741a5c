"""Dark experience replay: stored sequences with the logits that the model had on them (Buzzega et al., 2020)."""

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Fit, Look, Method, Replay, plain_method

if TYPE_CHECKING:
    from composer.core import Algorithm


class DER(Method):
    """L(θ) + α·‖z − h_θ(x′)‖² + β·L(x″, y″) over stored x′ and x″ of past tasks, with the logits z after their task."""

    name = "der"
    needs_past_data = True
    look = Look("DER", {"color": "#D55E00", "linestyle": "--", "marker": "X"})

    alpha: float = Field(0.5, ge=0, description="weight of the squared difference of logits")
    beta: float = Field(0.0, ge=0, description="weight of the loss on stored sequences; more than 0: DER++")
    buffer: int | None = Field(50, ge=1, description="sequences kept of each past task, with their logits; null: all")

    def neutral_notice(self) -> str | None:
        weightless = self.alpha == 0 and self.beta == 0
        name = plain_method().name
        return f"der.alpha=0 and der.beta=0 leave the weights as method={name} makes them" if weightless else None

    def replay(self) -> Replay:
        return Replay(0, self.buffer)

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.stored_logits import StoredLogits
        from sfa.trainers.der import DER as Replayed

        assert fit.memory is not None, "it acts from the second task on"
        pairs = zip(fit.past, fit.memory.tasks, strict=True)
        stored = [StoredLogits(past.folder, past.model, arrays) for past, arrays in pairs]
        return [Replayed(fit.memory, stored, self.alpha, self.beta, fit.report)]
