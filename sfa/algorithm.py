"""Sequential Fine-tuning with Averaging (SFA) as a Composer algorithm."""

import json
import logging
import math
import time
from fractions import Fraction
from typing import Any, Literal

import torch
from composer.core import Algorithm, Event, State, Time, TimeUnit
from composer.loggers import Logger

from sfa import finite
from sfa.anchor import Anchor, trained_shards
from sfa.errors import NotFinite
from sfa.origin import Origin, bare, over_ranks
from sfa.schedule import crosses, exact_fraction

log = logging.getLogger(__name__)

_COUNTED = (TimeUnit.BATCH, TimeUnit.SAMPLE, TimeUnit.TOKEN)

# The end of training can come unannounced (a callback stops it); these events follow before the checkpoint is written.
_LATE = (Event.BATCH_CHECKPOINT, Event.EPOCH_CHECKPOINT, Event.FIT_END)


class SFA(Algorithm):
    """Averages the weights with those of the previous task while the model trains on the next one (Algorithm 1).

    After the optimizer's step t of T, for every t in :func:`sfa.merge_steps` ``(T, p)``, θ ← β·θ_o + (1−β)·θ. The
    merge is done at ``Event.BATCH_END``, so evaluations and checkpoints of that step see the merged weights. The
    optimizer's state is kept. Only trained, floating-point parameters are merged; buffers are not.

    Each rank holds θ_o for exactly its own shards, so one process, DDP, FSDP1 and FSDP2 behave alike and a merge needs
    no communication (the distance that is logged beside it is one all-reduce of one number when parameters are
    sharded). θ_o is not in checkpoints: they name where it came from, and a resumed fit restores and checks it.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a time string, such as ``"50ba"``, ``"1ep"`` or ``"1000000tok"``; stands for ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor: folder of a model in Hugging Face format that is θ_o. ``None``: the weights at the start of the fit.
        built_from_anchor: the Trainer's model was built with the weights in ``anchor``, so they are taken from it, and
            checkpoints name the folder and its hash; otherwise the folder is read.
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` beside the parameters.
        reset_optimizer_on_merge: forget the optimizer's moments at each merge.

    Raises:
        ValueError: both or neither of ``p`` and ``every`` are given, or a value is out of range; at the start of the
            fit, a trained parameter is not float32 or float64, or θ_o does not fit the model.

    Examples:
        >>> from composer import Trainer
        >>> from sfa import SFA
        >>> trainer = Trainer(model=model, train_dataloader=next_task, max_duration="1ep", algorithms=[SFA(p=0.25)])
    """

    def __init__(
        self,
        p: float | None = None,
        every: str | None = None,
        beta: float = 0.5,
        anchor: str | None = None,
        anchor_device: Literal["cpu", "device"] = "cpu",
        reset_optimizer_on_merge: bool = False,
        built_from_anchor: bool = False,
    ):
        if (p is None) == (every is None):
            raise ValueError(f"SFA needs either p or every, not {'both' if p is not None else 'neither'}")
        if p is not None and not 0 < exact_fraction(p) <= 1:
            raise ValueError(f"p is a fraction of the training and must lie in (0, 1], not {p}")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta weighs the old weights and must lie in [0, 1], not {beta}")
        if anchor_device not in ("cpu", "device"):
            raise ValueError(f'anchor_device must be "cpu" or "device", not {anchor_device!r}')
        self.p = p
        self.every = Time.from_timestring(every) if every is not None else None
        if self.every is not None and self.every.value <= 0:
            raise ValueError(f"every must be positive, not {every}")
        if self.every is not None and self.every.unit not in (*_COUNTED, TimeUnit.EPOCH, TimeUnit.DURATION):
            raise ValueError(f"every counts ba, sp, tok, ep or dur, not {every}")
        self.beta = beta
        self.reset_optimizer_on_merge = reset_optimizer_on_merge

        self.merges: list[dict[str, float]] = []  # step, l2_before, l2_after, seconds
        self._origin = Origin(anchor, anchor_device, built_from_anchor)
        self._anchor: Anchor | None = None
        self._before: dict[str, int] = {}  # batches, samples and tokens seen when the fit started
        self._seen = 0  # progress since then at the last look, in the interval's unit
        self._unit = TimeUnit.BATCH
        self._interval = Fraction(1)

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.BEFORE_LOAD, Event.FIT_START, Event.BATCH_END, *_LATE)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_LOAD:
            self._origin.before_load(state)
        elif event == Event.FIT_START:
            self._fit_start(state)
        elif event == Event.BATCH_END:
            if self._due(state):
                self._merge(state, logger)
        elif self._ended(state) and self._last_merge != state.timestamp.batch.value:
            if event == Event.FIT_END:
                log.warning("Training was stopped too late for its last checkpoint to hold SFA's final merge.")
            self._merge(state, logger)

    def _fit_start(self, state: State) -> None:
        resumes = self._origin.resumes
        self._anchor = None  # so that there are never two copies
        self._anchor = self._origin.fit_start(state)
        if not resumes:
            self._before = _progress(state)
            self._seen = 0
            self.merges = []
        self._unit, self._interval = self._unit_and_interval(state)

    # -- when ----------------------------------------------------------------------------------------------------

    def _unit_and_interval(self, state: State) -> tuple[TimeUnit, Fraction]:
        """The unit that progress is counted in, and the exact interval between two merges."""
        end = state.max_duration
        assert end is not None, "Composer sets max_duration before the fit starts"
        if self.every is not None and self.every.unit != TimeUnit.DURATION:
            unit, interval = self.every.unit, exact_fraction(self.every.value)
            return (
                (TimeUnit.BATCH, interval * _batches_per_epoch(state)) if unit == TimeUnit.EPOCH else (unit, interval)
            )
        p = exact_fraction(self.every.value if self.every is not None else self.p)  # type: ignore[arg-type]
        unit, total = end.unit, int(end.value)
        if unit == TimeUnit.EPOCH:
            unit, total = TimeUnit.BATCH, total * _batches_per_epoch(state)
        if unit not in _COUNTED:
            raise ValueError(f"SFA counts batches, samples or tokens and cannot use a max_duration of {end}")
        return unit, p * (total - self._before[unit.value])

    def _due(self, state: State) -> bool:
        """Whether this batch crossed a multiple of the interval, or was the last one."""
        now = _progress(state)[self._unit.value] - self._before[self._unit.value]
        before, self._seen = self._seen, now
        return crosses(before, now, self._interval) or self._ended(state)

    def _ended(self, state: State) -> bool:
        """Whether training ends with this batch. With a duration in epochs Composer's own clock says so only after
        ``BATCH_END``, so the last batch is told from the dataloader's length."""
        end = state.max_duration
        assert end is not None, "Composer sets max_duration before the fit starts"
        if state.timestamp >= end:
            return True
        if end.unit != TimeUnit.EPOCH or state.dataloader_len is None:
            return False
        last_epoch = state.timestamp.epoch.value + 1 >= end.value
        return bool(last_epoch and state.timestamp.batch_in_epoch.value >= int(state.dataloader_len))

    # -- the merge -----------------------------------------------------------------------------------------------

    @property
    def _last_merge(self) -> int | None:
        return int(self.merges[-1]["step"]) if self.merges else None

    def _merge(self, state: State, logger: Logger) -> None:
        assert self._anchor is not None
        module = bare(state)
        shards = trained_shards(module)
        _wait(state)
        start = time.perf_counter()
        square = self._anchor.measure_and_merge(shards, self.beta)
        _wait(state)
        seconds = time.perf_counter() - start
        if self.reset_optimizer_on_merge:
            for optimizer in state.optimizers:
                optimizer.state.clear()
        before = math.sqrt(over_ranks(module, square))
        after = (1 - self.beta) * before
        step = int(state.timestamp.batch.value)
        if not math.isfinite(before):  # on every rank, though perhaps for the shards of another
            finite.check(shards, f"merged weight, step {step},")
            raise NotFinite(f"the distance from the anchor, step {step}, is not finite")
        self.merges.append({"step": step, "l2_before": before, "l2_after": after, "seconds": seconds})
        logger.log_metrics({"sfa/l2_before": before, "sfa/l2_after": after, "sfa/seconds": seconds})

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Composer's own keys, and, as one string, where θ_o came from and how far the fit is: Composer gives every
        rank rank 0's tensors, so a checkpoint could not hold shards."""
        saved = {**self._origin.saved(), "origin": self._before, "seen": self._seen, "merges": self.merges}
        return {**super().state_dict(), "json": json.dumps(saved if self._before else None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["json"])
        if saved is not None:
            self._origin.load(saved)
            self._before, self._seen, self.merges = saved["origin"], saved["seen"], saved["merges"]


def _progress(state: State) -> dict[str, int]:
    return {unit.value: int(state.timestamp.get(unit).value) for unit in _COUNTED}


def _batches_per_epoch(state: State) -> int:
    if state.dataloader_len is None:
        raise ValueError(
            "SFA cannot tell when an epoch ends, because the dataloader has no length: give max_duration in batches "
            "(ba), samples (sp) or tokens (tok), or set train_subset_num_batches"
        )
    return int(state.dataloader_len)


def _wait(state: State) -> None:
    if state.device.name == "gpu":
        torch.cuda.synchronize()
