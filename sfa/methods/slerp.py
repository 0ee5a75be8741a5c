"""SLERP: one spherical interpolation with θ_o after the training (Shoemake, 1985; mergekit's)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Look, Method, Sources
from sfa.methods.wise_ft import merged_after_each

if TYPE_CHECKING:
    from sfa.stages.plan import Stage, Stream


class Slerp(Method):
    """One interpolation after the training, along the arc between both models' tensors."""

    name = "slerp"
    merge_name = "slerp"
    merge_count = 2
    neutral = ("beta", 0)
    look = Look("SLERP", {"color": "#CC79A7", "linestyle": "--", "marker": "d"})

    beta: float = Field(0.5, ge=0, le=1, description="how far towards the previous task's weights")

    def stages(self, stream: Stream) -> list[Stage]:
        return merged_after_each(stream, self, self.name)

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa.merging import from_base, merge

        theta_o, theta = sources.models
        return merge(
            [theta, theta_o],
            lambda tensors: from_base(tensors, "slerp", {"t": self.beta}),
            out,
            whole=True,
        )
