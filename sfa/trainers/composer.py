"""Sequential Fine-tuning with Averaging (SFA) as a Composer algorithm."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from composer.core import Algorithm, Event, State, TimeUnit
from composer.loggers import Logger
from torch import Tensor

from sfa import moments
from sfa.averager import Averager, Merge
from sfa.schedule import COUNTED, Duration
from sfa.trainers.origin import Origin, bare

log = logging.getLogger(__name__)

# Training can end unexpectedly (a callback stops it); these events follow before the checkpoint is written.
_LATE = (Event.BATCH_CHECKPOINT, Event.EPOCH_CHECKPOINT, Event.FIT_END)


class SFA(Algorithm):
    """Averages the weights with those of the previous task while the model trains on the next one (Algorithm 1).

    After the optimizer's step t of T, for every t in :func:`sfa.merge_steps` ``(T, p)``, θ ← β·θ_o + (1−β)·θ. The
    merge is done at ``Event.BATCH_END``, so evaluations and checkpoints of that step see the merged weights. The
    optimizer's state is kept. Only trained, floating-point parameters are merged; buffers are not.

    Each rank holds θ_o for exactly its own shards, so one process, DDP, FSDP1 and FSDP2 behave alike and a merge needs
    no communication (logging the distance takes an all-reduce of one number if parameters are sharded). Checkpoints
    do not contain θ_o, but its origin; a resumed fit restores and checks it.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a time string, such as ``"50ba"``, ``"1ep"`` or ``"1000000tok"``; used instead of ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor: folder of a Hugging Face model with the weights θ_o. ``None``: the weights at the start of the fit.
        built_from_anchor: the Trainer's model was built with the weights in ``anchor``, so they are copied from it, and
            checkpoints record the folder and its hash; otherwise the folder is read.
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` keeps it on the parameters' device.
        reset_optimizer_on_merge: reset the optimizer's state at each merge.
        merge: of LoRA, ``"factors"`` averages A and B, each for itself, ``"product"`` the products B·A; not if
            parameters are sharded.
        distance: merges where ‖θ − θ_o‖/‖θ_o‖ is more than this; used instead of ``p``.
        when: merges where this returns ``True``, on all ranks alike; used instead of ``p``.
        at_end: merge after the last step; ``False``: only before it.
        beta_end: β of the last merge, with linear steps from ``beta`` over the merges; defaults to ``beta``.
        layers: β of the tensors whose names contain a match of a regular expression.
        merge_optimizer: average the optimizer's moments with those of θ_o, which are zero; see
            :func:`sfa.moments.average`.
        past: folders of models with which θ_o is averaged: it becomes the mean of itself and them.

    Raises:
        ValueError: both or neither of ``p`` and ``every`` are passed, or a value is out of range; at the start of the
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
        merge: Literal["factors", "product"] = "factors",
        *,
        distance: float | None = None,
        when: Callable[[], bool] | None = None,
        at_end: bool = True,
        beta_end: float | None = None,
        layers: Mapping[str, float] | None = None,
        merge_optimizer: bool = False,
        past: Sequence[str] = (),
    ):
        self.averager = Averager(
            p=p,
            every=every,
            beta=beta,
            anchor_device=anchor_device,
            merge=merge,
            distance=distance,
            when=when,
            at_end=at_end,
            beta_end=beta_end,
            layers=layers,
        )
        self.reset_optimizer_on_merge = reset_optimizer_on_merge
        self.merge_optimizer = merge_optimizer
        self._origin = Origin(anchor, anchor_device, built_from_anchor, past)

    @property
    def merges(self) -> list[Merge]:
        """The merges since the start of the fit."""
        return self.averager.merges

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.BEFORE_LOAD, Event.FIT_START, Event.BATCH_END, *_LATE)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_LOAD:
            self._origin.before_load(state)
        elif event == Event.FIT_START:
            self._fit_start(state)
        elif event == Event.BATCH_END:
            self._record(self.averager.step(_progress(state), last=_has_ended(state)), state, logger)
        elif self.averager.at_end and _has_ended(state) and self._last_merge != state.timestamp.batch.value:
            if event == Event.FIT_END:
                log.warning("Training was stopped too late for its last checkpoint to hold SFA's final merge.")
            self._record(self.averager.merge(int(state.timestamp.batch.value)), state, logger)

    def _fit_start(self, state: State) -> None:
        resume = self._origin.resumes
        self.averager.anchor = None  # never hold two copies
        anchor = self._origin.fit_start(state)
        assert state.max_duration is not None, "Composer sets it before the fit starts"
        total = Duration.parse(state.max_duration.to_timestring())
        epoch = None if state.dataloader_len is None else int(state.dataloader_len)
        self.averager.start(bare(state), total, epoch, _progress(state), anchor, resume, identify=False)

    def _record(self, merge: Merge | None, state: State, logger: Logger) -> None:
        if merge is None:
            return
        if self.reset_optimizer_on_merge:
            for optimizer in state.optimizers:
                optimizer.state.clear()
        if self.merge_optimizer:
            named: dict[str, Tensor] = dict(bare(state).named_parameters())
            betas = {named[name]: beta for name, beta in self.averager.betas.items()}
            for optimizer in state.optimizers:
                moments.average(optimizer, betas)
        logger.log_metrics({f"sfa/{name}": merge[name] for name in ("l2_before", "l2_after", "beta", "seconds")})

    @property
    def _last_merge(self) -> int | None:
        return self.merges[-1]["step"] if self.merges else None

    def state_dict(self) -> dict[str, Any]:
        """Composer's own keys and, as one string, the origin of θ_o and the progress of the fit: Composer restores rank
        0's tensors on every rank, so a checkpoint cannot hold shards."""
        saved = {**self._origin.saved(), **self.averager.state_dict()} if self.averager.started else None
        return {**super().state_dict(), "json": json.dumps(saved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["json"])
        if saved is not None:
            self._origin.load(saved)
            self.averager.load_state_dict(saved)


def _progress(state: State) -> dict[str, int]:
    return {unit: int(state.timestamp.get(TimeUnit(unit)).value) for unit in COUNTED}


def _has_ended(state: State) -> bool:
    """Whether training ends with this batch. With a duration in epochs Composer's own clock says so only after
    ``BATCH_END``, so the last batch is determined from the dataloader's length."""
    end = state.max_duration
    assert end is not None, "Composer sets it before the fit starts"
    if state.timestamp >= end:
        return True
    if end.unit != TimeUnit.EPOCH or state.dataloader_len is None:
        return False
    last_epoch = state.timestamp.epoch.value + 1 >= end.value
    return bool(last_epoch and state.timestamp.batch_in_epoch.value >= int(state.dataloader_len))
