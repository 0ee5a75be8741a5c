"""Sequential Fine-tuning with Averaging (SFA) as a Composer algorithm."""

import hashlib
import json
import logging
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from composer.core import Algorithm, Event, State, Time, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from sfa import finite
from sfa.anchor import Anchor, trained_shards
from sfa.schedule import crosses, exact_fraction
from sfa.weights import read_shards

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

    Example:
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
        self.anchor_path = anchor
        self.anchor_device = anchor_device
        self.reset_optimizer_on_merge = reset_optimizer_on_merge
        self.reads_anchor = anchor is not None and not built_from_anchor

        self.merges: list[dict[str, float]] = []  # step, l2_before, l2_after, seconds
        self._anchor: Anchor | None = None
        self._anchor_norm = 0.0
        self._origin: dict[str, int] = {}  # batches, samples and tokens seen when the fit started
        self._seen = 0  # progress since then at the last look, in the interval's unit
        self._unit = TimeUnit.BATCH
        self._interval = Fraction(1)
        self._resumes = False  # a checkpoint was loaded and the fit that continues it has not started yet

    def match(self, event: Event, state: State) -> bool:
        return event in (Event.BEFORE_LOAD, Event.FIT_START, Event.BATCH_END, *_LATE)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_LOAD:
            # If a checkpoint follows, this is the last moment at which the model holds the weights it was built with.
            if not self.reads_anchor:
                self._anchor = Anchor(trained_shards(_module(state)), self.anchor_device)
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
        module = _module(state)
        if self.reads_anchor:
            self._anchor = Anchor(read_shards(module, Path(str(self.anchor_path))), self.anchor_device)
        elif not self._resumes or self._anchor is None:
            self._anchor = None  # so that there are never two copies
            self._anchor = Anchor(trained_shards(module), self.anchor_device)
        norm = math.sqrt(_over_ranks(module, self._anchor.squared_norm()))
        if not self._resumes:
            self._origin = _progress(state)
            self._seen = 0
            self.merges = []
        elif not math.isclose(norm, self._anchor_norm, rel_tol=1e-6, abs_tol=1e-12):
            raise ValueError(
                "the anchor of the resumed fit is not the one its checkpoint was written with: its norm is "
                f"{norm:.6g} instead of {self._anchor_norm:.6g}. Build the model with the weights of the previous task "
                "before the checkpoint is loaded, or pass anchor=<folder of that model>."
            )
        self._anchor_norm = norm
        self._resumes = False
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
        return unit, p * (total - self._origin[unit.value])

    def _due(self, state: State) -> bool:
        """Whether this batch crossed a multiple of the interval, or was the last one."""
        now = _progress(state)[self._unit.value] - self._origin[self._unit.value]
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
        module = _module(state)
        shards = trained_shards(module)
        _wait(state)
        start = time.perf_counter()
        square = self._anchor.measure_and_merge(shards, self.beta)
        _wait(state)
        seconds = time.perf_counter() - start
        if self.reset_optimizer_on_merge:
            for optimizer in state.optimizers:
                optimizer.state.clear()
        before = math.sqrt(_over_ranks(module, square))
        after = (1 - self.beta) * before
        step = int(state.timestamp.batch.value)
        if not math.isfinite(before):
            finite.check(shards, f"merged weight, step {step},")
        self.merges.append({"step": step, "l2_before": before, "l2_after": after, "seconds": seconds})
        logger.log_metrics({"sfa/l2_before": before, "sfa/l2_after": after, "sfa/seconds": seconds})

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where θ_o came from and how far the fit is, as one string: Composer gives every rank rank 0's tensors, so a
        checkpoint could not hold shards."""
        saved = {
            "anchor": self.anchor_path,
            "anchor_hash": _folder_hash(self.anchor_path),
            "anchor_norm": self._anchor_norm,
            "origin": self._origin,
            "seen": self._seen,
            "merges": self.merges,
        }
        return {"json": json.dumps(saved if self._origin else None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["json"])
        if saved is None:
            return
        if saved["anchor_hash"] != _folder_hash(self.anchor_path):
            raise ValueError(
                f"the checkpoint was written with the anchor {saved['anchor'] or '(weights at the start of the fit)'}, "
                f"and {self.anchor_path or '(weights at the start of the fit)'} is another, or its files have changed"
            )
        self._anchor_norm, self._origin = saved["anchor_norm"], saved["origin"]
        self._seen, self.merges = saved["seen"], saved["merges"]
        self._resumes = True


def _progress(state: State) -> dict[str, int]:
    return {unit.value: int(state.timestamp.get(unit).value) for unit in _COUNTED}


def _batches_per_epoch(state: State) -> int:
    if state.dataloader_len is None:
        raise ValueError(
            "SFA cannot tell when an epoch ends, because the dataloader has no length: give max_duration in batches "
            "(ba), samples (sp) or tokens (tok), or set train_subset_num_batches"
        )
    return int(state.dataloader_len)


def _module(state: State) -> nn.Module:
    return state.model.module if isinstance(state.model, DistributedDataParallel) else state.model


def _folder_hash(folder: str | None) -> str | None:
    """Hash of an anchor's files, by the checksums in its stage's manifest where it has one."""
    if folder is None:
        return None
    manifest = Path(folder).parent / "manifest.json"
    digest = hashlib.sha256()
    for file in [manifest] if manifest.is_file() else sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _over_ranks(model: nn.Module, value: float) -> float:
    """Sum of a per-rank ``value`` over the whole model: sharded parts add up, replicas count once."""
    ranks = dist.get_world_size()
    replicas = _replicas(model, ranks)
    if replicas == ranks:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=next(model.parameters()).device)
    dist.all_reduce(total)
    return float(total) / replicas


def _replicas(model: nn.Module, ranks: int) -> int:
    """How many ranks hold the same shard."""
    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            shards = [mesh.size(i) for i, where in enumerate(parameter.placements) if isinstance(where, Shard)]
            return ranks // math.prod(shards)
    return 1 if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()) else ranks


def _wait(state: State) -> None:
    if state.device.name == "gpu":
        torch.cuda.synchronize()
