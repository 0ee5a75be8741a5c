"""A method of somebody else's: each task's model is pulled back to a share of its way, tensor by tensor."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Method, Sources
from sfa.methods.wise_ft import merged_after_each
from sfa.stages.plan import Stage, Stream


class Shrink(Method):
    """θ_o + share·(θ − θ_o) after each training."""

    name = "shrink"
    merge_name = "shrink"
    merge_count = 2
    neutral = ("share", 1)
    headline = "share"
    look = Look("Shrink", {"color": "#123456", "marker": "h", "linestyle": "-"})

    share: float = Field(0.5, ge=0, le=1, description="of its way that is kept")

    def stages(self, stream: Stream) -> list[Stage]:
        return merged_after_each(stream, self, self.name)

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa.merging import merge

        theta_o, theta = sources.models
        return merge([theta_o, theta], lambda pair: pair[0] + self.share * (pair[1] - pair[0]), out, base=True)
