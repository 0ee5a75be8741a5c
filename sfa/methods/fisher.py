"""Fisher merging: weights averaged by their Fisher information (Matena & Raffel, 2022; the paper's equation 15)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from sfa.methods.base import FisherSettings, Look, Sources
from sfa.methods.task_arithmetic import Weighted
from sfa.values import Spec


class FisherMerging(Weighted):
    """Weights averaged by their Fisher information (eq. 15)."""

    name = "fisher"
    merge_name = "fisher"
    needs_past_data = True
    look = Look("Fisher", {"color": "#E69F00", "linestyle": ":", "marker": "v"})

    labels: Literal["empirical", "sampled"] = Field("empirical", description="of the Fisher information")
    examples: int = Field(200, ge=1, description="that the Fisher information of a task is taken over")
    normalize: bool = Field(
        False, description="divides each task's Fisher information by its norm, and counts at least 1e-6 of it"
    )

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        errors = super().errors(tasks, steps)
        if self.weights and (min(self.weights) < 0 or self.weights[0] == 0):
            errors.append(
                "fisher.weights: must not be negative, and the first more than 0 (the first merge is of "
                f"its task only), not {self.weights}"
            )
        return errors

    def weights_spec(self) -> Spec:
        """``normalize`` is left out at its default, so that fingerprints from before the option stay valid."""
        return self.model_dump(mode="json", exclude=set() if self.normalize else {"normalize"})

    def fisher_settings(self) -> FisherSettings:
        return FisherSettings(self.examples, self.labels)

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa import merging

        return merging.fisher(sources.models, sources.fishers, self.weights_of(sources), out, self.normalize)
