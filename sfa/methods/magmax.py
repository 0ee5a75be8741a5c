"""MagMax: of sequentially trained models, the change of largest magnitude at each entry (Marczak et al., 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Look, Method, Sources, plain_method

if TYPE_CHECKING:
    from sfa.stages.plan import Stage, Stream


class MagMax(Method):
    """base + λ·τ, with the entry of largest magnitude among the task vectors θᵢ − base of sequential training."""

    name = "magmax"
    merge_name = "magmax"
    merges_from = True
    acts_on_one_task = True
    undoing = ("scale", 0)
    look = Look("MagMax", {"color": "#009E73", "linestyle": "-.", "marker": ">"})

    scale: float = Field(0.5, allow_inf_nan=False, description="λ, of the merged task vector")

    def stages(self, stream: Stream) -> list[Stage]:
        """The merges of all models of sequential training so far, and of the tuned model that it starts from, if there
        is one."""
        trained = stream.given[1:]
        stages = list(stream.given)
        for task in stream.tasks:
            past = trained[len(stream.given) - 1 :]
            trained.append(stream.train([task], plain_method(), [stream.base, *trained][-1], past))
            sources = (stream.base, *trained)
            stages.append(stream.merge(task.name, self.name, self, parent=stages[-1], sources=sources))
        return stages

    def merge(self, sources: Sources, out: Path) -> list[str]:
        import torch

        from sfa.merging import merge

        assert sources.base is not None, "MagMax needs a base"

        def rule(tensors: list[torch.Tensor]) -> torch.Tensor:
            origin, *others = tensors
            largest = torch.zeros_like(origin)
            for theta in others:
                vector = theta - origin
                largest = torch.where(vector.abs() >= largest.abs(), vector, largest)  # of equals, the later one
            return torch.add(origin, largest, alpha=self.scale)

        return merge([sources.base, *sources.models], rule, out, base=True)
