"""Sequential Fine-tuning with Averaging: the paper's method (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sfa.methods.base import Fit, Look, Method
from sfa.methods.wise_ft import WiseFT, merged_after_each
from sfa.schedule import Clock, Duration, exact_fraction
from sfa.values import PART, Spec

if TYPE_CHECKING:
    from composer.core import Algorithm

    from sfa.stages.plan import Stage, Stream

MergeInterval = Annotated[
    str,
    Field(
        pattern=rf"^([1-9][0-9_]*(ba|ep|sp|tok)|{PART})$",
        description='batches, epochs, samples, tokens or a fraction of the training, like "50ba" or "0.25dur"',
    ),
]
LISTED_MERGES = 12  # up to this many are listed in full in a dry run


class SFA(Method):
    """Sequential Fine-tuning with Averaging."""

    name = "sfa"
    holds_anchor = True
    neutral = ("beta", 0)
    headline = "p"
    look = Look("SFA", {"color": "#D55E00", "linestyle": "-", "marker": "o"}, bar="#009E73", is_subject=True)

    p: float | None = Field(0.25, gt=0, le=1, description="fraction of the training between merges")
    every: MergeInterval | None = Field(None, description="instead of p, like 50ba")
    beta: float = Field(0.5, ge=0, le=1, description="weight of the previous task's weights")
    anchor_device: Literal["cpu", "device"] = "cpu"
    reset_optimizer_on_merge: bool = False
    lora_merge: Literal["factors", "product"] = Field(
        "factors", description="of LoRA: average A and B, each for itself, or the products B·A"
    )

    @model_validator(mode="after")
    def _one_interval(self) -> SFA:
        if (self.p is None) == (self.every is None):
            raise ValueError("give either p or every; to use every where a file sets p, add sfa.p=null")
        return self

    def stages(self, stream: Stream) -> list[Stage]:
        """With p=1 there is one average after each training, so the trainings are shared with other methods."""
        if self.p == 1 and self.lora_merge == "factors":
            return merged_after_each(stream, WiseFT(beta=self.beta), self.name)
        return super().stages(stream)

    def algorithms(self, fit: Fit) -> list[Algorithm]:
        from sfa.trainers.composer import SFA as Averaging

        every = self.every
        if every is not None and every.endswith("ep"):  # the Trainer sees a single epoch
            every = f"{math.ceil(Duration.parse(every).in_steps(fit.total, fit.epoch))}ba"
        anchor, reset = str(fit.anchor), self.reset_optimizer_on_merge
        return [Averaging(self.p, every, self.beta, anchor, self.anchor_device, reset, True, self.lora_merge)]

    def weights_spec(self) -> Spec:
        """Without the way of merging adapters as before there was a choice, so that finished stages remain valid."""
        spec = super().weights_spec()
        return {key: value for key, value in spec.items() if key != "lora_merge" or value != "factors"}

    def clock(self, total: int, epoch: Fraction) -> Clock | None:
        interval = Duration(exact_fraction(self.p), "dur") if self.p is not None else Duration.parse(str(self.every))
        return None if interval.unit in ("sp", "tok") else Clock(interval.in_steps(total, epoch), total)

    def describe_merges(self, total: int | None) -> str:
        every = self.every
        if total is None or (every is not None and not every.endswith(("ba", "dur"))):
            return f"merges every {every or f'{self.p} of it'} and at the end"
        clock = self.clock(total, Fraction(1))
        assert clock is not None, "batches and fractions are known in advance"
        if total <= LISTED_MERGES * max(clock.interval, Fraction(1)):
            steps = [f"{step:,}" for step in clock]
        else:
            steps = [*(f"{step:,}" for step in islice(clock, 5)), "…", f"{total:,}"]
        return f"merges at {', '.join(steps)} (β={self.beta})"

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        if self.lora_merge == "factors":
            return []
        if not has_adapters:
            return ["sfa.lora_merge: product is for adapters, and model.lora is not set"]
        return ["sfa.lora_merge: product needs whole adapters, so parallelism cannot be fsdp2"] if is_sharded else []

    def errors(self, tasks: Sequence[str], steps: Sequence[int | None]) -> list[str]:
        errors = (self.step_error(count) for count in steps[1:] if count is not None)
        return [error for error in errors if error is not None]

    def step_error(self, total: int) -> str | None:
        if self.p is None or exact_fraction(self.p) * total >= 1:
            return None
        return (
            f"sfa.p: {self.p} of {total} steps is less than one step; allowed from 1/{total} to 1, "
            "or sfa.every=1ba sfa.p=null to merge after every step"
        )
