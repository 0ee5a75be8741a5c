"""Rehearsal: past tasks' sequences in every batch."""

from pydantic import Field

from sfa.methods.base import Look, Method, Replay
from sfa.schedule import exact_fraction
from sfa.values import Spec


class Rehearsal(Method):
    """Past tasks' sequences mixed into every batch."""

    name = "rehearsal"
    needs_past_data = True
    neutral = ("fraction", 0)
    look = Look(style={"color": "#CC79A7", "linestyle": "none", "marker": "D"}, in_bars="band")

    fraction: float = Field(0.1, ge=0, lt=1, description="of a training's sequences, at random places, from past tasks")
    buffer: int | None = Field(None, ge=1, description="sequences kept of each past task; null: all")

    def replay(self) -> Replay:
        return Replay(self.fraction, self.buffer)

    def weights_spec(self) -> Spec:
        """With a mark, as these sequences were once drawn with a probability, of which a short training had none."""
        return {**super().weights_spec(), "counted": True}

    def sequence_error(self, count: int) -> str | None:
        if self.fraction == 0 or exact_fraction(self.fraction) * count >= 1:
            return None
        return f"rehearsal.fraction: {self.fraction} of {count} sequences is less than one; allowed from 1/{count}"
