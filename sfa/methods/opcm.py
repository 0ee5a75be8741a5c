"""OPCM: each task vector is added without what lies in the span of those before it (Tang et al., 2025)."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Sources
from sfa.methods.task_arithmetic import OfSingleTasks


class Opcm(OfSingleTasks):
    """Orthogonal projection-based continual merging of single-task models, in the order of the stream."""

    name = "opcm"
    merge_name = "opcm"
    merges_from = True
    merges_one = False  # nothing to project on
    ignores_order = False
    look = Look("OPCM", {"color": "#D55E00", "linestyle": "-.", "marker": "8"})

    alpha: float = Field(
        0.5, ge=0, le=1, description="share of the merged change's singular values whose span new changes leave out"
    )

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa.projection import merge_projected

        assert sources.base is not None, "OPCM needs a base"
        return merge_projected(sources.base, sources.models, out, self.alpha)
