"""DELLA: entries of task vectors dropped at random, small ones more often (Deep et al., 2024; mergekit's della)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sfa.methods.base import Look
from sfa.methods.task_arithmetic import Sparsified

if TYPE_CHECKING:
    from torch import Tensor


class Della(Sparsified):
    """Drops entries by their rank within a row, rescales the rest, elects a sign for each entry, and averages the
    entries that agree with it."""

    name = "della"
    merge_name = "della"
    rule = "della"
    draws = True
    undoing = ("scale", 0)
    look = Look("DELLA", {"color": "#CC79A7", "linestyle": "-.", "marker": "<"})

    density: float = Field(0.5, gt=0, le=1, description="share of each row that is kept on average")
    epsilon: float = Field(
        0.15,
        ge=0,
        lt=0.5,
        description="a row's largest entry is kept with density + epsilon, its smallest with less it",
    )
    scale: float = Field(1.0, allow_inf_nan=False, description="λ, of the merged task vector")

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        errors = super().errors(tasks, steps)
        if self.density < 1 and not 0 < self.density - self.epsilon <= self.density + self.epsilon < 1:
            errors.append(
                f"{self.name}.epsilon: density ± epsilon must lie between 0 and 1, not {self.density} ± {self.epsilon}"
            )
        return errors

    def parameters(self) -> dict[str, Any]:
        settings = {"density": self.density, "epsilon": self.epsilon, "lambda": self.scale}
        return {**settings, "normalize": True, "rescale": True}

    def combine(self, tensors: list[Tensor], parameters: dict[str, Any]) -> Tensor:
        """mergekit ranks entries along the second dimension, or the only one. A single entry has no rank there: where
        that dimension has one, the whole tensor is ranked, and a tensor of one entry is kept."""
        shape = tensors[0].shape
        if len(shape) > 1 and shape[1] == 1:
            tensors = [tensor.reshape(-1) for tensor in tensors]
        if tensors[0].numel() < 2:
            parameters = {**parameters, "density": 1.0}
        return super().combine(tensors, parameters).reshape(shape)
