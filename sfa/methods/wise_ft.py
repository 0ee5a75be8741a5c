"""WiSE-FT: one average with θ_o after the training (Wortsman et al., 2022b), and the base class of such merges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Look, Method, Sources, plain_method

if TYPE_CHECKING:
    from sfa.stages.plan import Stage, Stream


class MergedOnce(Method):
    """One merge of θ_o and θ, in this order, after the training; with a ``beta`` of 0 it is θ."""

    merge_count = 2
    neutral = ("beta", 0)
    undoing = ("beta", 1)

    def stages(self, stream: Stream) -> list[Stage]:
        return merged_after_each(stream, self, self.name)


class WiseFT(MergedOnce):
    """One average after the training."""

    name = "wise_ft"
    merge_name = "average"
    look = Look("WiSE-FT", {"color": "#0072B2", "linestyle": "--", "marker": "p"})

    beta: float = Field(0.5, ge=0, le=1, description="weight of the previous task's weights")

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa import merging

        theta_o, theta = sources.models
        return merging.average(theta_o, theta, self.beta, out)


def merged_after_each(stream: Stream, merger: Method, label: str) -> list[Stage]:
    """Trains each task sequentially from the previous model, θ_o, and then merges the result with it.

    Args:
        stream: the run's stream.
        merger: merges θ_o and θ, in this order.
        label: name of the method in results.
    """
    stages = list(stream.given)
    for i, task in enumerate(stream.tasks):
        trained = stream.train([task], plain_method(), stages[-1], stream.past(stages))
        sources = (stages[-1], trained)
        merges = i > 0 or stream.has_anchor
        stages.append(stream.merge(task.name, label, merger, stages[-1], sources) if merges else trained)
    return stages
