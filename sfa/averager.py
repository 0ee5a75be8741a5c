"""Algorithm 1 without a trainer: a clock, the anchor θ_o, and a state of plain numbers."""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from sfa.anchor import Anchor, sum_over_ranks, trained_shards
from sfa.errors import NotFinite
from sfa.finite import check
from sfa.schedule import COUNTED, Clock, Duration, exact_fraction


class Merge(TypedDict):
    """One merge: the step after which it was done, ‖θ − θ_o‖ before and after it, and the seconds it took."""

    step: int
    l2_before: float
    l2_after: float
    seconds: float


class Averager:
    """Averages a model with the weights it had before the current task, θ ← β·θ_o + (1−β)·θ, while it is trained.

    Call :meth:`start` before the first step, and :meth:`step` after every step of the optimizer. Only trained,
    floating-point parameters are merged; buffers and the optimizer's state are unchanged. Each rank works on its own
    shards, so one process, DDP and FSDP behave alike.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a duration, such as ``"50ba"``, ``"1ep"`` or ``"1000000tok"``; used instead of ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` keeps it on the parameters' device.

    Attributes:
        merges: merges since the start.
        anchor: θ_o; ``None`` before the start.

    Raises:
        ValueError: both or neither of ``p`` and ``every`` are passed, or a value is out of range.

    Examples:
        >>> averager = Averager(p=0.25)
        >>> averager.start(model, total=len(loader))
        >>> for batch in loader:
        ...     model(batch).loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     averager.step(model)
    """

    def __init__(
        self,
        p: float | None = None,
        every: str | None = None,
        beta: float = 0.5,
        anchor_device: Literal["cpu", "device"] = "cpu",
    ):
        if (p is None) == (every is None):
            raise ValueError(f"SFA needs either p or every, not {'both' if p is not None else 'neither'}")
        if p is not None and not 0 < exact_fraction(p) <= 1:
            raise ValueError(f"p is a fraction of the training and must lie in (0, 1], not {p}")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta weighs the old weights and must lie in [0, 1], not {beta}")
        if anchor_device not in ("cpu", "device"):
            raise ValueError(f'anchor_device must be "cpu" or "device", not {anchor_device!r}')
        self.interval = Duration(exact_fraction(p), "dur") if p is not None else _interval(str(every))
        self.beta = beta
        self.anchor_device = anchor_device
        self.anchor: Anchor | None = None
        self.merges: list[Merge] = []
        self._before: dict[str, int] = {}  # batches, samples and tokens before the training started
        self._seen = 0  # progress since then at the last step, in the clock's unit
        self._unit = "ba"
        self._clock = Clock(exact_fraction(1))

    @property
    def started(self) -> bool:
        """Whether a training was started, in this process or in that of the loaded state."""
        return bool(self._before)

    def start(
        self,
        model: nn.Module,
        total: int | Duration,
        epoch: int | None = None,
        progress: Mapping[str, int] | None = None,
        anchor: Anchor | None = None,
        resume: bool = False,
    ) -> None:
        """Starts a training, or resumes one.

        Args:
            model: the trained model.
            total: steps of the training, or its length in batches, samples, tokens or epochs; counted from the same
                origin as ``progress``.
            epoch: steps per epoch; required if ``total`` or ``every`` counts epochs.
            progress: batches, samples and tokens (``ba``, ``sp``, ``tok``) that the model has already seen; defaults
                to 0 each.
            anchor: θ_o; defaults to the current trained weights of ``model``.
            resume: continue from the loaded state instead of counting from ``progress``.

        Raises:
            ValueError: ``epoch`` is required and missing, or the length is a fraction; a trained parameter is neither
                float32 nor float64.
        """
        if anchor is not None:
            self.anchor = anchor
        else:
            self.anchor = None  # never hold two copies
            self.anchor = Anchor(trained_shards(model), self.anchor_device)
        if not resume:
            self._before = {unit: int((progress or {}).get(unit, 0)) for unit in COUNTED}
            self._seen = 0
            self.merges = []
        length = Duration(exact_fraction(total), "ba") if isinstance(total, int) else total
        self._unit, self._clock = self._clock_of(length, epoch)

    def step(self, model: nn.Module, progress: Mapping[str, int] | None = None, last: bool = False) -> Merge | None:
        """Merges if one is due after this step of the optimizer. All ranks call it.

        Args:
            model: the trained model.
            progress: batches, samples and tokens that the model has seen; defaults to one more batch than at the last
                call.
            last: the training ends with this step, regardless of its planned length.

        Returns:
            The merge, or ``None``.

        Raises:
            NotFinite: a weight is infinite or NaN.
        """
        count = self._count(progress)
        before, self._seen = self._seen, count
        if not (last or self._clock.is_due(before, count)):
            return None
        return self.merge(model, self._before["ba"] + count if progress is None else int(progress["ba"]))

    def merge(self, model: nn.Module, step: int) -> Merge:
        """Merges now, after ``step``. All ranks call it.

        Raises:
            NotFinite: a weight is infinite or NaN.
        """
        assert self.anchor is not None, "start() must be called first"
        shards = trained_shards(model)
        device = next(iter(shards.values())).device if shards else torch.device("cpu")
        _synchronize(device)
        started_at = time.perf_counter()
        square = self.anchor.measure_and_merge(shards, self.beta)
        _synchronize(device)
        seconds = time.perf_counter() - started_at
        before = math.sqrt(sum_over_ranks(model, square))
        if not math.isfinite(before):  # on every rank, although the cause may be on another
            check(shards, f"merged weight, step {step},")
            raise NotFinite(f"the distance from the anchor, step {step}, is not finite")
        self.merges.append(Merge(step=step, l2_before=before, l2_after=(1 - self.beta) * before, seconds=seconds))
        return self.merges[-1]

    def state_dict(self) -> dict[str, Any]:
        """Progress and merges as plain numbers; θ_o is not included."""
        return {"origin": self._before, "seen": self._seen, "merges": self.merges}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the output of :meth:`state_dict`; call :meth:`start` with ``resume=True`` to continue from it."""
        self._before, self._seen = dict(state["origin"]), int(state["seen"])
        self.merges = list(state["merges"])

    def _count(self, progress: Mapping[str, int] | None) -> int:
        if progress is not None:
            return int(progress[self._unit]) - self._before[self._unit]
        if self._unit != "ba":
            raise ValueError(f"merges are counted in {self._unit}, so step() needs the progress")
        return self._seen + 1

    def _clock_of(self, length: Duration, epoch: int | None) -> tuple[str, Clock]:
        """The unit of progress, and the clock of merges in this unit, counted from the start."""
        every = self.interval
        if every.unit == "ep":
            return "ba", Clock(every.value * _require_epoch(epoch))
        if every.unit != "dur":
            return every.unit, Clock(every.value)
        unit, end = length.unit, int(length.value)
        if unit == "ep":
            unit, end = "ba", end * _require_epoch(epoch)
        if unit not in COUNTED:
            raise ValueError(f"SFA counts batches, samples or tokens and cannot use a training of {length}")
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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
