"""TIES merging (Yadav et al., 2023)."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Sources
from sfa.methods.task_arithmetic import Weighted


class Ties(Weighted):
    """Trims task vectors, elects a sign for each entry, and averages the entries that agree with it."""

    name = "ties"
    merge_name = "ties"
    merges_from = True
    acts_on_one_task = True
    undoing = ("scale", 0)
    look = Look("TIES", {"color": "#009E73", "linestyle": ":", "marker": "^"})

    density: float = Field(0.2, gt=0, le=1, description="share of each task vector that is kept, the largest entries")
    scale: float = Field(1.0, description="λ, of the merged task vector")

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa import merging

        assert sources.base is not None, "TIES needs a base"
        weights = self.weights_of(sources)
        return merging.ties(sources.base, sources.models, weights, out, self.density, self.scale)
