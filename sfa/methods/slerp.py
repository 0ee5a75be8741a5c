"""SLERP: one spherical interpolation with θ_o after the training (Shoemake, 1985; mergekit's)."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Sources
from sfa.methods.wise_ft import MergedOnce


class Slerp(MergedOnce):
    """One interpolation after the training, along the arc between both models' tensors."""

    name = "slerp"
    merge_name = "slerp"
    look = Look("SLERP", {"color": "#CC79A7", "linestyle": "--", "marker": "d"})

    beta: float = Field(0.5, ge=0, le=1, description="how far towards the previous task's weights")

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa.merging import from_base, merge

        theta_o, theta = sources.models
        return merge(
            [theta, theta_o],
            lambda tensors: from_base(tensors, "slerp", {"t": self.beta}),
            out,
            whole=True,
        )
