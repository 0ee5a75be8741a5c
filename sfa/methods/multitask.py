"""Training on all tasks at once: an upper bound that needs all data at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sfa.methods.base import Look, Method
from sfa.values import Spec

if TYPE_CHECKING:
    from sfa.stages.plan import Stage, Stream


class Multitask(Method):
    """One training on the mixed rows of all tasks, with as many steps as they have together."""

    name = "multitask"
    acts_on_one_task = True
    stage_labels = ("multitask",)
    ignores_order = True
    look = Look(style={"color": "black", "linestyle": "none", "marker": "*", "markersize": 13}, in_bars="star")

    balanced: bool = Field(False, description="as many sequences of each task, instead of each row as often")

    @property
    def is_balanced(self) -> bool:
        return self.balanced

    def weights_spec(self) -> Spec:
        """Without balance as before there was any, so that finished stages remain valid; 2: of texts, too."""
        return {"balanced": 2} if self.balanced else {}

    def stages(self, stream: Stream) -> list[Stage]:
        return [*stream.given, stream.train(stream.tasks, self, stream.given[-1], label=self.name)]
