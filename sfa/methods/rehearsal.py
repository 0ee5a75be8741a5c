"""Rehearsal: past tasks' sequences in every batch."""

from pydantic import Field

from sfa.methods.base import Look, Method, Replay


class Rehearsal(Method):
    """Past tasks' sequences mixed into every batch."""

    name = "rehearsal"
    needs_past_data = True
    neutral = ("fraction", 0)
    look = Look(style={"color": "#CC79A7", "linestyle": "none", "marker": "D"}, in_bars="band")

    fraction: float = Field(0.1, ge=0, lt=1, description="of each batch, on average, from past tasks")
    buffer: int | None = Field(None, ge=1, description="sequences kept of each past task; null: all")

    def replay(self) -> Replay:
        return Replay(self.fraction, self.buffer)
