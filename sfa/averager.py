"""Algorithm 1 without a trainer: a clock, the anchor θ_o, and a state of plain numbers."""

import math
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from sfa.anchor import Anchor
from sfa.anchor_source import Identity, check_same, identity_of, read
from sfa.errors import NotFinite
from sfa.finite import check
from sfa.live import Live, live, total
from sfa.lora import average_products, pairs
from sfa.schedule import COUNTED, Clock, Duration, exact_fraction
from sfa.weighting import Weighting


class Merge(TypedDict):
    """One merge: the step after which it was done, ‖θ − θ_o‖ before and after it, β, of tensors without one of their
    own, and the seconds it took."""

    step: int
    l2_before: float
    l2_after: float
    beta: float
    seconds: float


class Averager:
    """Averages a model with the weights it had before the current task, θ ← β·θ_o + (1−β)·θ, while it is trained.

    Create it before the first step, after the model was wrapped and before a checkpoint is loaded, and call
    :meth:`step` after every step of the optimizer. Only trained, floating-point parameters are merged; buffers, frozen
    (also quantized) weights and the optimizer's state are unchanged. Each rank works on its own shards, so one process,
    DDP, FSDP1, FSDP2 and DeepSpeed's ZeRO behave alike.

    Parameters in 16 bits that have no float32 masters get a float32 shadow next to θ_o, because repeated averages of
    16-bit weights stall before they reach θ_o.

    Args:
        model: the trained model, wrapped as it is trained; under DeepSpeed its engine. A trainer's adapter leaves
            ``model`` and ``steps`` out and calls :meth:`start`.
        steps: steps of the training, or its length in batches, samples, tokens or epochs.
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a duration, such as ``"50ba"``, ``"1ep"`` or ``"1000000tok"``; used instead of ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor: θ_o: a folder of a model or of adapters, or a name on the hub; defaults to the weights at the start.
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` keeps it on the parameters' device.
        merge: of LoRA, ``"factors"`` averages A and B, each for itself; ``"product"`` averages the products B·A and
            keeps the best approximation of the same rank. Without LoRA they are the same.
        epoch: steps per epoch; required if ``steps`` or ``every`` counts epochs.
        distance: merges after every step at which ‖θ − θ_o‖/‖θ_o‖ is more than this; used instead of ``p``.
        when: merges after every step at which this returns ``True``, on all ranks alike; used instead of ``p``.
        at_end: merge after the last step; ``False``: only before it.
        beta_end: β of the last merge, with linear steps from ``beta`` over the merges; defaults to ``beta``.
        layers: β of the tensors whose names contain a match of a regular expression, such as ``{"embed": 0.9}``.

    Attributes:
        merges: merges since the start.
        betas: β of each tensor in the last merge, by name.
        lora_error: of LoRA whose factors are whole on each rank, how far the last merge's products B·A are from the
            averages of the products, in the Frobenius norm over all adapters and relative to it; otherwise ``None``.
        anchor: θ_o; ``None`` before the start.
        identity: what identifies θ_o in a checkpoint; ``None`` if the caller does that.

    Raises:
        ValueError: both or neither of ``p`` and ``every`` are passed, or a value is out of range; or as :meth:`start`.

    Examples:
        >>> averager = Averager(model, steps=len(loader), p=0.25)
        >>> for batch in loader:
        ...     model(batch).loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     averager.step()
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        steps: int | Duration | None = None,
        p: float | None = None,
        every: str | None = None,
        beta: float = 0.5,
        anchor: str | None = None,
        anchor_device: Literal["cpu", "device"] = "cpu",
        merge: Literal["factors", "product"] = "factors",
        epoch: int | None = None,
        *,
        distance: float | None = None,
        when: Callable[[], bool] | None = None,
        at_end: bool = True,
        beta_end: float | None = None,
        layers: Mapping[str, float] | None = None,
    ):
        is_bound = distance is not None or when is not None
        if not is_bound and (p is None) == (every is None):
            raise ValueError(f"SFA needs either p or every, not {'both' if p is not None else 'neither'}")
        if is_bound and (p is not None or every is not None or beta_end is not None):
            name = "when" if distance is None else "distance"
            raise ValueError(f"{name} decides when to merge: p, every and beta_end cannot be set with it")
        if distance is not None and when is not None:
            raise ValueError("pass either distance or when")
        if distance is not None and distance <= 0:
            raise ValueError(
                f"distance is relative to the norm of the old weights and must be positive, not {distance}"
            )
        if p is not None and not 0 < exact_fraction(p) <= 1:
            raise ValueError(f"p is a fraction of the training and must lie in (0, 1], not {p}")
        self.weighting = Weighting(beta, beta_end, dict(layers or {}))
        if anchor_device not in ("cpu", "device"):
            raise ValueError(f'anchor_device must be "cpu" or "device", not {anchor_device!r}')
        if merge not in ("factors", "product"):
            raise ValueError(f'merge must be "factors" or "product", not {merge!r}')
        if merge == "product" and layers:
            raise ValueError('layers have a beta of their own with merge="factors" only')
        if is_bound:
            p = 1
        self.interval = Duration(exact_fraction(p), "dur") if p is not None else _interval(str(every))
        self._is_passed = when if distance is None else lambda: self._is_far(distance)
        self.at_end = at_end
        self.source = anchor
        self.anchor_device = anchor_device
        self.averages_products = merge == "product"
        self.anchor: Anchor | None = None
        self.merges: list[Merge] = []
        self.betas: dict[str, float] = {}
        self.lora_error: float | None = None
        self._live: Live | None = None
        self._norm: float | None = None  # ‖θ_o‖, once it is needed
        self.identity: Identity | None = None
        self._before: dict[str, int] = {}  # batches, samples and tokens before the training started
        self._seen = 0  # progress since then at the last step, in the clock's unit
        self._length = Duration(exact_fraction(1), "ba")
        self._epoch: int | None = None
        if (model is None) != (steps is None):
            raise ValueError("pass model and steps together")
        if model is not None and steps is not None:
            self.start(model, steps, epoch)

    @property
    def started(self) -> bool:
        """Whether a training was started, in this process or in that of the loaded state."""
        return bool(self._before)

    @property
    def unit(self) -> str:
        """The unit of progress in which merges are counted: ``ba``, ``sp`` or ``tok``."""
        return self._clock()[0]

    @property
    def bytes(self) -> int:
        """Bytes that this rank holds: θ_o, and the shadow of 16-bit parameters."""
        return (self.anchor.bytes if self.anchor else 0) + (self._live.bytes if self._live else 0)

    def start(
        self,
        model: nn.Module,
        steps: int | Duration,
        epoch: int | None = None,
        progress: Mapping[str, int] | None = None,
        anchor: Anchor | None = None,
        resume: bool = False,
        optimizer: Any = None,
        identify: bool = True,
    ) -> None:
        """Starts a training, or resumes one. All ranks call it.

        Args:
            model: the trained model.
            steps: steps of the training, or its length in batches, samples, tokens or epochs; counted from the same
                origin as ``progress``.
            epoch: steps per epoch; required if ``steps`` or ``every`` counts epochs.
            progress: batches, samples and tokens (``ba``, ``sp``, ``tok``) that the model has already seen; defaults
                to 0 each.
            anchor: θ_o if the caller already has it; defaults to the anchor of the constructor.
            resume: continue from the loaded state instead of counting from ``progress``.
            optimizer: the trainer's optimizer, for DeepSpeed if ``model`` is not its engine.
            identify: record what identifies θ_o; not if the caller does.

        Raises:
            ValueError: ``epoch`` is required and missing, or the length is a fraction; the weights cannot be averaged;
                θ_o does not fit the model.
        """
        self.stop()  # never hold two copies
        self._norm = None
        self._live = live(model, optimizer, self.anchor_device)
        if self.averages_products and not self._live.whole:
            raise ValueError('merge="product" needs whole factors on each rank: with shards use merge="factors"')
        if anchor is not None:
            self.anchor = anchor
        elif self.source is None:
            self.anchor = Anchor(self._live.masters(), self.anchor_device)
        else:
            self.anchor = read(self.source, model, self._live, self.anchor_device)
        self.identity = identity_of(self.source, self.anchor, self._live) if identify else None
        if not resume:
            self._before = {unit: int((progress or {}).get(unit, 0)) for unit in COUNTED}
            self._seen = 0
            self.merges = []
        self._length = Duration(exact_fraction(steps), "ba") if isinstance(steps, int) else steps
        self._epoch = epoch
        self._clock()
        if self.weighting.end is not None and self._merge_count() is None:
            raise ValueError(
                f"beta_end needs the number of merges, which {self.interval} of {self._length} leaves open"
            )
        if self.weighting.layers and (unused := self.weighting.unused(self._live.masters())):
            raise ValueError(f"layers: no trained tensor's name contains a match of {unused[0]!r}")

    def step(self, progress: Mapping[str, int] | None = None, last: bool = False) -> Merge | None:
        """Merges if one is due after this step of the optimizer. All ranks call it.

        Args:
            progress: batches, samples and tokens that the model has seen; defaults to one more batch than at the last
                call.
            last: the training ends with this step, regardless of its planned length.

        Returns:
            The merge, or ``None``.

        Raises:
            NotFinite: a weight is infinite or NaN.
        """
        unit, clock = self._clock()
        if progress is None and unit != "ba":
            raise ValueError(f"merges are counted in {unit}, so step() needs the progress")
        count = self._seen + 1 if progress is None else int(progress[unit]) - self._before[unit]
        before, self._seen = self._seen, count
        end = self._end()
        if last or (end is not None and count >= end):
            is_due = self.at_end and (last or clock.is_due(before, count))
        else:
            is_due = clock.is_due(before, count) if self._is_passed is None else self._is_passed()
        if not is_due:
            return None
        return self.merge(self._before["ba"] + count if progress is None else int(progress["ba"]))

    def merge(self, step: int) -> Merge:
        """Merges now, after ``step``. All ranks call it.

        Raises:
            NotFinite: a weight is infinite or NaN.
        """
        assert self.anchor is not None and self._live is not None, "start() must be called first"
        _synchronize()
        started_at = time.perf_counter()
        masters = self._live.masters()
        beta = self.weighting.at(len(self.merges), self._merge_count())
        self.betas = self.weighting.of(masters, beta)
        is_uniform = not self.weighting.layers
        factors = pairs(masters) if self._live.whole and is_uniform else []
        products, error = average_products(masters, self.anchor.shards, factors, beta, self.averages_products)
        square = self.anchor.measure_and_merge(masters, beta if is_uniform else self.betas)
        for name, factor in products.items():
            masters[name].copy_(factor)
        self._live.publish()
        is_scaled = is_uniform and not products
        after = 0.0 if is_scaled else self.anchor.squared_distance(masters)
        _synchronize()
        seconds = time.perf_counter() - started_at
        before = math.sqrt(total(self._live, square))
        if not math.isfinite(before):  # on every rank, although the cause may be on another
            check(masters, f"merged weight, step {step},")
            raise NotFinite(f"the distance from the anchor, step {step}, is not finite")
        l2_after = (1 - beta) * before if is_scaled else math.sqrt(total(self._live, after))
        merge = Merge(step=step, l2_before=before, l2_after=l2_after, beta=beta, seconds=seconds)
        self.merges.append(merge)
        self.lora_error = error if factors else None
        return merge

    def stop(self) -> None:
        """Frees θ_o and the shadow of 16-bit parameters; :meth:`start` starts another training."""
        self.anchor, self._live = None, None

    def state_dict(self) -> dict[str, Any]:
        """Progress, merges and the identity of θ_o as plain numbers and strings. θ_o itself is not included: a resumed
        training takes it from where this one did."""
        return {"origin": self._before, "seen": self._seen, "merges": self.merges, "identity": self.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the output of :meth:`state_dict`. A trainer's adapter may call it before
        :meth:`start` with ``resume=True``.

        Raises:
            ValueError: θ_o is not the one of the saved training; says what to pass.
        """
        if self.identity is not None and state["identity"] is not None:
            check_same(state["identity"], self.identity)
        self._before, self._seen = dict(state["origin"]), int(state["seen"])
        self.merges = list(state["merges"])

    def _is_far(self, bound: float) -> bool:
        """Whether ‖θ − θ_o‖/‖θ_o‖ is more than ``bound``. All ranks call it."""
        assert self.anchor is not None and self._live is not None, "start() must be called first"
        moved = total(self._live, self.anchor.squared_distance(self._live.masters()))
        if self._norm is None:
            self._norm = math.sqrt(total(self._live, self.anchor.squared_norm()))
        return math.sqrt(moved) > bound * self._norm

    def _end(self) -> Fraction | None:
        """The count at which the training ends, in the unit of progress; ``None`` if it is not known in this unit."""
        unit, clock = self._clock()
        if clock.total is not None:
            return Fraction(clock.total)
        length, per_epoch = self._length, self._epoch
        if length.unit == "ep" and per_epoch is not None:
            length = Duration(length.value * per_epoch, "ba")
        return length.value - self._before[unit] if length.unit == unit else None

    def _merge_count(self) -> int | None:
        """The number of merges in the training; ``None`` if it is not known in advance."""
        end = self._end()
        if end is None or self._is_passed is not None:
            return None
        interval = max(self._clock()[1].interval, Fraction(1))
        return math.ceil(end / interval) - (0 if self.at_end else 1)

    def _clock(self) -> tuple[str, Clock]:
        """The unit of progress, and the clock of merges in this unit, counted from the start."""
        every = self.interval
        if every.unit == "ep":
            return "ba", Clock(every.value * _require_epoch(self._epoch))
        if every.unit != "dur":
            return every.unit, Clock(every.value)
        unit, end = self._length.unit, int(self._length.value)
        if unit == "ep":
            unit, end = "ba", end * _require_epoch(self._epoch)
        if unit not in COUNTED:
            raise ValueError(f"SFA counts batches, samples or tokens and cannot use a training of {self._length}")
        remaining = end - self._before[unit]
        return unit, Clock(every.value * remaining, remaining)


def _interval(every: str) -> Duration:
    try:
        return Duration.parse(every)
    except ValueError as error:
        raise ValueError(f"every {error}") from error


def _require_epoch(epoch: int | None) -> int:
    if epoch is None:
        raise ValueError(
            "SFA cannot determine when an epoch ends, because the dataloader has no length: give the duration in "
            "batches (ba), samples (sp) or tokens (tok)"
        )
    return epoch


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
