"""Averaged gradient episodic memory (Chaudhry et al., 2019)."""

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Fit, Look, Method, Replay

if TYPE_CHECKING:
    from composer.core import Algorithm


class AGEM(Method):
    """Gradients are projected so that they do not increase the loss on stored sequences of past tasks."""

    name = "agem"
    needs_past_data = True
    look = Look("A-GEM", {"color": "#E69F00", "linestyle": "-.", "marker": "8"})

    buffer: int | None = Field(None, ge=1, description="sequences kept of each past task; null: all")

    def replay(self) -> Replay:
        return Replay(0, self.buffer)

    def algorithms(self, fit: Fit) -> "list[Algorithm]":
        from sfa.trainers.agem import AGEM as Projection

        assert fit.memory is not None, "it acts from the second task on"
        return [Projection(fit.memory)]
