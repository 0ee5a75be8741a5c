"""Training on all tasks at once: an upper bound that needs all data at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfa.methods.base import Look, Method

if TYPE_CHECKING:
    from sfa.stages.plan import Stage, Stream


class Multitask(Method):
    """One training on the mixed rows of all tasks."""

    name = "multitask"
    acts_on_one_task = True
    stage_labels = ("multitask",)
    ignores_order = True
    look = Look(style={"color": "black", "linestyle": "none", "marker": "*", "markersize": 13}, in_bars="star")

    def stages(self, stream: Stream) -> list[Stage]:
        return [stream.base, stream.train(stream.tasks, self, stream.base, label=self.name)]
