"""Task Arithmetic (Ilharco et al., 2023), and base classes for merges of single-task models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from sfa.methods.base import Look, Method, Sources, plain_method

if TYPE_CHECKING:
    from torch import Tensor

    from sfa.stages.plan import Stage, Stream


class OfSingleTasks(Method):
    """After each task, merges the single-task models of all tasks so far, and the tuned model that the stream starts
    from, if there is one.

    Attributes:
        merges_one: whether a single model is merged with the base; otherwise, it is the result.
    """

    merges_one: ClassVar[bool] = True
    ignores_order = True

    def stages(self, stream: Stream) -> list[Stage]:
        tuned = stream.given[1:]
        singles = [*tuned, *(stream.train([task], plain_method(), stream.base) for task in stream.tasks)]
        stages = list(stream.given)
        for k, task in enumerate(stream.tasks, len(tuned) + 1):
            if k == 1 and not self.merges_one:
                stages.append(singles[0])
                continue
            sources = (stream.base, *singles[:k])
            merger = self.of_first(k, len(singles))
            stages.append(stream.merge(task.name, self.name, merger, parent=stages[-1], sources=sources))
        return stages

    def of_first(self, count: int, tasks: int) -> Method:
        """The merge of the first ``count`` of ``tasks`` single-task models."""
        return self

    def idle_reason(self, tasks: Sequence[str]) -> str | None:
        if len(tasks) > 1 or self.acts_on_one_task:
            return None
        return (
            f"{self.name} merges the models of several tasks, and this stream trains only {tasks[0]}: list more "
            f"tasks, set model.base to the model that model.name was tuned from, or use method={plain_method().name}"
        )


class Weighted(OfSingleTasks):
    """Merges with one weight per model."""

    weights: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        None, description="one for each task; null: 1/n each"
    )

    def of_first(self, count: int, tasks: int) -> Method:
        """With the first ``count`` weights, scaled to the sum of all weights."""
        weights = self.weights or [1 / tasks] * tasks
        scaled = [weight * sum(weights) / (sum(weights[:count]) or 1) for weight in weights[:count]]
        return self.model_copy(update={"weights": scaled})

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        if self.weights is None or len(self.weights) == len(tasks):
            return []
        return [
            f"{self.name}.weights: must hold one number for each of the {len(tasks)} tasks, not {len(self.weights)}"
        ]

    def neutral_notice(self) -> str | None:
        if self.weights and not any(self.weights):
            return f"{self.name}.weights={self.weights} leaves the weights of the base"
        return super().neutral_notice()

    def weights_of(self, sources: Sources) -> list[float]:
        """The weight of each model."""
        return self.weights or [1 / len(sources.models)] * len(sources.models)


class Sparsified(Weighted):
    """mergekit's merges of task vectors that keep only part of their entries, tensor by tensor.

    Attributes:
        rule: name of the merge in mergekit.
    """

    rule: ClassVar[str]
    merges_from = True
    acts_on_one_task = True

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """mergekit's parameters, without the weights."""

    def combine(self, tensors: list[Tensor], parameters: dict[str, Any]) -> Tensor:
        """Merges one whole tensor of the base and of each model."""
        from sfa.merging import from_base

        return from_base(tensors, self.rule, parameters)

    def merge(self, sources: Sources, out: Path) -> list[str]:
        import torch

        from sfa.merging import merge, named_weights

        assert sources.base is not None, f"{self.name} needs a base"
        named = named_weights(self.weights_of(sources), sources.models)
        parameters = {"weight": named, **self.parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sources.seed)
            return merge(
                [sources.base, *sources.models],
                lambda tensors: self.combine(tensors, parameters),
                out,
                base=True,
                whole=True,
            )


class TaskArithmetic(Weighted):
    """base + Σ wᵢ(θᵢ − base) over models trained on each task alone."""

    name = "task_arithmetic"
    merge_name = "task_arithmetic"
    merges_from = True
    acts_on_one_task = True
    look = Look(style={"color": "#56B4E9", "linestyle": "-.", "marker": "s"})

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa import merging

        assert sources.base is not None, "task arithmetic needs a base"
        return merging.task_arithmetic(sources.base, sources.models, self.weights_of(sources), out)
