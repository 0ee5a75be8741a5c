"""Model Breadcrumbs: the smallest and the largest entries of task vectors dropped (Davari & Belilovsky, 2024;
mergekit's breadcrumbs)."""

from typing import Any

from pydantic import Field

from sfa.methods.base import Look
from sfa.methods.task_arithmetic import Sparsified


class Breadcrumbs(Sparsified):
    """A weighted sum of task vectors, without the largest entries of each tensor and the smallest ones."""

    name = "breadcrumbs"
    merge_name = "breadcrumbs"
    rule = "breadcrumbs"
    look = Look("Breadcrumbs", {"color": "#D55E00", "linestyle": ":", "marker": "h"})

    density: float = Field(0.9, gt=0, le=1, description="share of each tensor that is kept, the middle magnitudes")
    gamma: float = Field(0.01, ge=0, lt=1, description="share of each tensor that is dropped as its largest entries")

    def parameters(self) -> dict[str, Any]:
        return {"density": self.density, "gamma": self.gamma, "normalize": False}
