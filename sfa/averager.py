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
    floating-point parameters are merged; buffers and the optimizer's state are left as they are. Each rank works on
    its own shards, so one process, DDP and FSDP behave alike.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a duration, such as ``"50ba"``, ``"1ep"`` or ``"1000000tok"``; stands for ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` beside the parameters.

    Attributes:
        merges: that were done since the start.
        anchor: θ_o; ``None`` before the start.

    Raises:
        ValueError: both or neither of ``p`` and ``every`` are given, or a value is out of range.

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
        self._before: dict[str, int] = {}  # batches, samples and tokens seen when the training started
        self._seen = 0  # progress since then at the last look, in the clock's unit
        self._unit = "ba"
        self._clock = Clock(exact_fraction(1))

    @property
    def started(self) -> bool:
        """Whether a training was started, in this process or in the one whose state was loaded."""
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
        """Begins a training, or goes on with one.

        Args:
            model: that is trained.
            total: steps of the training, or its length in batches, samples, tokens or epochs; counted from where
                ``progress`` counts from.
            epoch: steps of an epoch, where ``total`` or ``every`` counts epochs.
            progress: batches, samples and tokens (``ba``, ``sp``, ``tok``) that the model has seen before; 0 each, if
                not given.
            anchor: θ_o; the trained weights of ``model`` as they are now, if not given.
            resume: go on where the loaded state ended, instead of counting from ``progress``.

        Raises:
            ValueError: ``epoch`` is needed and not given, or the length counts parts; a trained parameter is neither
                float32 nor float64.
        """
        if anchor is not None:
            self.anchor = anchor
        else:
            self.anchor = None  # so that there are never two copies
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
            model: that is trained.
            progress: batches, samples and tokens that the model has seen; one more batch than at the last call, if not
                given.
            last: the training ends with this step, whatever its length was said to be.

        Returns:
            What was merged, or ``None``.

        Raises:
            NotFinite: a weight is infinite or not a number.
        """
        count = self._count(progress)
        before, self._seen = self._seen, count
        if not (last or self._clock.is_due(before, count)):
            return None
        return self.merge(model, self._before["ba"] + count if progress is None else int(progress["ba"]))

    def merge(self, model: nn.Module, step: int) -> Merge:
        """Merges now, after ``step``. All ranks call it.

        Raises:
            NotFinite: a weight is infinite or not a number.
        """
        assert self.anchor is not None, "start() comes first"
        shards = trained_shards(model)
        device = next(iter(shards.values())).device if shards else torch.device("cpu")
        _wait(device)
        begun = time.perf_counter()
        square = self.anchor.measure_and_merge(shards, self.beta)
        _wait(device)
        seconds = time.perf_counter() - begun
        before = math.sqrt(sum_over_ranks(model, square))
        if not math.isfinite(before):  # on every rank, though perhaps for the shards of another
            check(shards, f"merged weight, step {step},")
            raise NotFinite(f"the distance from the anchor, step {step}, is not finite")
        self.merges.append(Merge(step=step, l2_before=before, l2_after=(1 - self.beta) * before, seconds=seconds))
        return self.merges[-1]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: how far the training is, and its merges. θ_o is not among them."""
        return {"origin": self._before, "seen": self._seen, "merges": self.merges}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From :meth:`state_dict`; :meth:`start` with ``resume=True`` goes on from there."""
        self._before, self._seen = dict(state["origin"]), int(state["seen"])
        self.merges = list(state["merges"])

    def _count(self, progress: Mapping[str, int] | None) -> int:
        if progress is not None:
            return int(progress[self._unit]) - self._before[self._unit]
        if self._unit != "ba":
            raise ValueError(f"merges are counted in {self._unit}, so step() needs the progress")
        return self._seen + 1

    def _clock_of(self, length: Duration, epoch: int | None) -> tuple[str, Clock]:
        """The unit that progress is counted in, and when merges are due in it, counted from the start."""
        every = self.interval
        if every.unit == "ep":
            return "ba", Clock(every.value * _known(epoch))
        if every.unit != "dur":
            return every.unit, Clock(every.value)
        unit, end = length.unit, int(length.value)
        if unit == "ep":
            unit, end = "ba", end * _known(epoch)
        if unit not in COUNTED:
            raise ValueError(f"SFA counts batches, samples or tokens and cannot use a training of {length}")
        left = end - self._before[unit]
        return unit, Clock(every.value * left, left)


def _interval(every: str) -> Duration:
    try:
        return Duration.parse(every)
    except ValueError as error:
        raise ValueError(f"every {error}") from error


def _known(epoch: int | None) -> int:
    if epoch is None:
        raise ValueError(
            "SFA cannot tell when an epoch ends, because the dataloader has no length: give the duration in batches "
            "(ba), samples (sp) or tokens (tok)"
        )
    return epoch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
