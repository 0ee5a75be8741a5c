"""Elastic weight consolidation (Kirkpatrick et al., 2017; the paper's equations 13 and 14)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sfa.methods.base import Fit, Look
from sfa.methods.l2 import Penalized

if TYPE_CHECKING:
    from sfa.fisher import Fisher


class EWC(Penalized):
    """λ/2·Σ F_o (θ − θ_o)², with the diagonal Fisher information F_o of past tasks."""

    name = "ewc"
    needs_past_data = True
    kind = "ewc"
    look = Look("EWC", {"color": "#E69F00", "linestyle": "--", "marker": "^"})

    strength: float = Field(100.0, ge=0, description="λ")
    fisher: Literal["accumulated", "per_task"] = Field("accumulated", description="one pull to θ_o, or one a past task")
    labels: Literal["empirical", "sampled"] = Field("empirical", description="of the Fisher information")
    examples: int = Field(200, ge=1, description="that the Fisher information of a task is taken over")

    def fishers(self, fit: Fit) -> "list[Fisher]":
        from sfa.fisher import Fisher, fisher_folder

        return [
            Fisher(
                folder=fisher_folder(past.folder, self.examples, self.labels, fit.seed),
                anchor=None if self.fisher == "accumulated" or past.is_parent else str(past.model),
                here=past.is_parent,
                examples=lambda past=past: past.examples(self.examples),  # type: ignore[misc]
                labels=self.labels,
                seed=fit.seed,
                model=str(past.model),
            )
            for past in fit.past
        ]
