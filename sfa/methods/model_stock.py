"""Model Stock: the mean of models, drawn towards the base by the angle between them (Jang et al., 2024; mergekit's)."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Sources
from sfa.methods.task_arithmetic import OfSingleTasks


class ModelStock(OfSingleTasks):
    """t·mean(θᵢ) + (1−t)·base with t = n·cos φ / (1 + (n−1)·cos φ), φ the mean angle between task vectors."""

    name = "model_stock"
    merge_name = "model_stock"
    merges_from = True
    merges_one = False  # no angle between one
    look = Look("Model Stock", {"color": "#767676", "linestyle": "-.", "marker": "H"})

    filter_wise: bool = Field(False, description="an angle for each row of a matrix, instead of each tensor")

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa.errors import MergeError
        from sfa.merging import from_base, merge

        assert sources.base is not None, "Model Stock needs a base"
        if len(sources.models) < 2:
            raise MergeError("Model Stock needs two models or more: it depends on the angle between them")
        return merge(
            [sources.base, *sources.models],
            lambda tensors: from_base(tensors, "model_stock", {"filter_wise": self.filter_wise}),
            out,
            base=True,
            whole=True,
        )
