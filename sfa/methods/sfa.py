"""Sequential Fine-tuning with Averaging: the paper's method (Algorithm 1)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sfa.errors import UsageError
from sfa.methods.base import Fit, Look, Method
from sfa.methods.wise_ft import WiseFT, merged_after_each
from sfa.schedule import Clock, Duration, exact_fraction
from sfa.values import PART, Section, Spec
from sfa.weighting import Weighting

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
Weight = Annotated[float, Field(ge=0, le=1)]
OPTIONS = ("merge_at_end", "anchor", "layers", "beta_end", "merge_optimizer", "when")
LISTED_MERGES = 12  # up to this many are listed in full in a dry run


class When(Section):
    """A bound that starts a merge."""

    distance: float | None = Field(None, gt=0, description="‖θ − θ_o‖/‖θ_o‖ after a step, more than which it merges")
    kl: float | None = Field(
        None, gt=0, description="KL(p_o ‖ p) on a step's batch, in nats, more than which it merges"
    )

    @model_validator(mode="after")
    def _one(self) -> When:
        if (self.distance is None) == (self.kl is None):
            raise ValueError("give either distance or kl")
        return self

    def __str__(self) -> str:
        return f"KL(p_o ‖ p) is more than {self.kl:g}" if self.kl else f"‖θ − θ_o‖ is more than {self.distance:g}·‖θ_o‖"


class SFA(Method):
    """Sequential Fine-tuning with Averaging."""

    name = "sfa"
    holds_anchor = True
    neutral = ("beta", 0)
    undoing = ("beta", 1)
    headline = "p"
    look = Look("SFA", {"color": "#D55E00", "linestyle": "-", "marker": "o"}, is_subject=True)

    p: float | None = Field(0.25, gt=0, le=1, description="fraction of the training between merges")
    every: MergeInterval | None = Field(None, description="instead of p, like 50ba")
    beta: float = Field(0.5, ge=0, le=1, description="weight of the previous task's weights")
    anchor_device: Literal["cpu", "device"] = "cpu"
    reset_optimizer_on_merge: bool = False
    lora_merge: Literal["factors", "product"] = Field(
        "factors", description="of LoRA: average A and B, each for itself, or the products B·A"
    )
    merge_at_end: bool = Field(True, description="false: the last step is not followed by a merge")
    anchor: Literal["last", "mean"] = Field("last", description="θ_o: the previous task's model, or all tasks' mean")
    layers: dict[str, Weight] = Field(
        {}, description='β of the tensors whose names contain a match of a regular expression, like {"embed": 0.9}'
    )
    beta_end: Weight | None = Field(None, description="β of the last merge, linear from beta; null: beta")
    merge_optimizer: bool = Field(False, description="averages the optimizer's moments too, with zeros")
    when: When | None = Field(None, description="instead of p, a bound that starts a merge")

    @model_validator(mode="after")
    def _consistent(self) -> SFA:
        if self.p is None and self.every is None and self.when is None:
            raise ValueError("give p, every or when: all of them are null")
        if self.when is None and self.p is not None and self.every is not None:
            raise ValueError(
                "give either p or every; to use one where a file sets the other, add sfa.p=null or sfa.every=null"
            )
        if self.when is not None and (self.p is not None or self.every is not None):
            raise ValueError("give either p, every or when; to use when where a file sets another, set that to null")
        if self.when is not None and self.beta_end is not None:
            raise ValueError("beta_end: when leaves the number of merges open, over which β would change")
        if self.beta_end is not None and self.every is not None and self.every.endswith(("sp", "tok")):
            raise ValueError("beta_end: needs p, or every in batches or epochs, so that merges can be counted")
        if self.p == 1 and not self.merge_at_end:
            raise ValueError("merge_at_end: with p=1 there is no other merge; without any, use another method")
        if self.merge_optimizer and self.reset_optimizer_on_merge:
            raise ValueError("merge_optimizer: the moments cannot be averaged and reset")
        if self.layers and self.lora_merge == "product":
            raise ValueError("layers: products of factors are averaged with one β; use lora_merge=factors")
        for pattern in self.layers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"layers: {pattern!r} is not a regular expression: {error}") from error
        return self

    @property
    def is_wise_ft(self) -> bool:
        """Whether its only merge is one with a single β and the previous task's model after the training."""
        options = {**self._options(), "merge_optimizer": False}  # the optimizer is not used any more
        return self.p == 1 and self.lora_merge == "factors" and options == SFA()._options()

    def _options(self) -> Spec:
        """What is not in the paper, and not in fingerprints at its default."""
        return self.model_dump(mode="json", include={*OPTIONS})

    def stages(self, stream: Stream) -> list[Stage]:
        """With p=1 there is one average after each training, so the trainings are shared with other methods."""
        if self.is_wise_ft:
            return merged_after_each(stream, WiseFT(beta=self.beta), self.name)
        return super().stages(stream)

    def algorithms(self, fit: Fit) -> list[Algorithm]:
        from sfa.trainers.composer import SFA as Averaging
        from sfa.trainers.distillation import Drift

        every = self.every
        if every is not None and every.endswith("ep"):  # the Trainer sees a single epoch
            every = f"{math.ceil(Duration.parse(every).in_steps(fit.total, fit.epoch))}ba"
        bound = self.when.kl if self.when is not None else None
        drift = None if bound is None else Drift(fit.anchor, bound)
        past = [str(past.model) for past in fit.past if not past.is_parent] if self.anchor == "mean" else []
        return [
            *([drift] if drift is not None else []),
            Averaging(
                self.p,
                every,
                self.beta,
                str(fit.anchor),
                self.anchor_device,
                self.reset_optimizer_on_merge,
                True,
                self.lora_merge,
                distance=self.when.distance if self.when is not None else None,
                when=None if drift is None else drift.is_passed,
                at_end=self.merge_at_end,
                beta_end=self.beta_end,
                layers=self.layers,
                merge_optimizer=self.merge_optimizer,
                past=past,
            ),
        ]

    def tuned(self, model: Any, fit: Fit) -> Any:
        """The model itself, after a check of ``layers``.

        Raises:
            UsageError: an expression matches no trained tensor.
        """
        names = [f"model.{name}" for name, parameter in model.named_parameters() if parameter.requires_grad]
        if unused := Weighting(layers=self.layers).unused(names):
            raise UsageError(
                f"sfa.layers: no trained tensor's name contains a match of {unused[0]!r}; there are {', '.join(names)}"
            )
        return model

    def weights_spec(self) -> Spec:
        """Without options at their defaults, as before there were any, so that finished stages remain valid."""
        spec, defaults = super().weights_spec(), SFA().model_dump(mode="json")
        if self.when is not None:
            spec["when"] = self.when.model_dump(mode="json", exclude_none=True)
        optional = {"lora_merge", *OPTIONS}
        return {key: value for key, value in spec.items() if key not in optional or value != defaults[key]}

    def neutral_notice(self) -> str | None:
        """None where some tensors or merges have another β, or where training after the last merge remains."""
        values = {self.beta, *self.layers.values(), *([] if self.beta_end is None else [self.beta_end])}
        return super().neutral_notice() if len(values) == 1 and (self.beta == 0 or self.merge_at_end) else None

    def clock(self, total: int, epoch: Fraction) -> Clock | None:
        if self.when is not None or not self.merge_at_end:
            return None
        interval = Duration(exact_fraction(self.p), "dur") if self.p is not None else Duration.parse(str(self.every))
        return None if interval.unit in ("sp", "tok") else Clock(interval.in_steps(total, epoch), total)

    def describe_merges(self, total: int | None) -> str:
        every = self.every
        end = "and at the end" if self.merge_at_end else "but not at the end"
        if self.when is not None:
            return f"merges when {self.when}, {end}"
        if not self.merge_at_end:
            return f"merges every {every or f'{self.p} of it'} {end}"
        if total is None or (every is not None and not every.endswith(("ba", "dur"))):
            return f"merges every {every or f'{self.p} of it'} and at the end"
        clock = self.clock(total, Fraction(1))
        assert clock is not None, "batches and fractions are known in advance"
        if total <= LISTED_MERGES * max(clock.interval, Fraction(1)):
            steps = [f"{step:,}" for step in clock]
        else:
            steps = [*(f"{step:,}" for step in islice(clock, 5)), "…", f"{total:,}"]
        last = "" if self.beta_end is None else f" to {self.beta_end}"
        return f"merges at {', '.join(steps)} (β={self.beta}{last})"

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        if is_sharded and self.when is not None and self.when.kl is not None:
            return ["sfa.when.kl: holds θ_o as a second whole model on each rank, so parallelism cannot be fsdp2"]
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
