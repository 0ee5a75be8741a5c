"""DARE: entries of task vectors dropped at random and the rest rescaled (Yu et al., 2024; mergekit's dare_linear)."""

from typing import Any

from pydantic import Field

from sfa.methods.base import Look
from sfa.methods.task_arithmetic import Sparsified


class Dare(Sparsified):
    """A weighted sum of task vectors, after random entries of each are dropped and the rest rescaled."""

    name = "dare"
    merge_name = "dare"
    rule = "dare_linear"
    draws = True
    look = Look("DARE", {"color": "#CC79A7", "linestyle": ":", "marker": "P"})

    density: float = Field(0.5, gt=0, le=1, description="share of each task vector that is kept, drawn at random")

    def parameters(self) -> dict[str, Any]:
        return {"density": self.density, "normalize": False, "rescale": True}
