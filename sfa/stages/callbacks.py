"""Callbacks of a stage's training: evaluation, and stopping without loss of progress."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sfa.errors import Interrupted
from sfa.records import Score, TimedScore, TimedScores, checked
from sfa.schedule import Clock


class Evaluator(Protocol):
    """Scores a live model, with its tokenizer or image processor; all ranks call it together and all receive the
    scores. ``key`` identifies what was scored; ``lower_is_better`` also accepts evaluations outside ``names``."""

    names: list[str]

    def key(self, name: str) -> str: ...

    def lower_is_better(self, name: str) -> bool: ...

    def __call__(self, model: nn.Module, processor: Any, names: Sequence[str] | None = None) -> list[Score]: ...


class Recorder(Callback):
    """Evaluates at an interval and at the end, and collects a stage's scores and training time across resumptions.

    Args:
        evaluate: scores a live model on the named evaluations, or on all.
        key: hash of what determines an evaluation's score, by name; see :meth:`Evaluator.key`.
        during: names of the evaluations that are scored before the end.
        interval: interval in steps; ``None``: only at the end.
        total: T, the number of steps.

    Attributes:
        rows: scores, each with its ``step`` and its ``key`` at that time: a resumed training may have other
            evaluations than it was started with.
        seconds: training time, without evaluations and checkpoints, including earlier processes.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module, Sequence[str] | None], list[Score]],
        key: Callable[[str], str],
        during: Sequence[str],
        interval: Fraction | None,
        total: int,
    ):
        self.evaluate, self.key, self.during, self.total = evaluate, key, during, total
        self.clock = Clock(interval or Fraction(total), total)
        self.rows: list[TimedScore] = []
        self.seconds = 0.0
        self._since = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        self._since = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch.value)
        if not self.clock.is_due(step - 1, step):
            return
        self._pause()
        scores = self.evaluate(bare_model(state), None if step == self.total else self.during)
        self.rows += [{"step": step, "key": self.key(score["evaluation"]), **score} for score in scores]
        logger.log_metrics({f"eval/{score['evaluation']}/{score['metric']}": score["value"] for score in scores})
        self._since = time.perf_counter()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        self._pause()
        self._since = time.perf_counter()

    def _pause(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def state_dict(self) -> dict[str, Any]:
        return {"json": json.dumps({"rows": self.rows, "seconds": self.seconds})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["json"])
        self.rows = checked(TimedScores, saved["rows"], "the scores of a checkpoint")
        self.seconds = saved["seconds"]


class Stopper(Callback):
    """Turns Ctrl-C and SIGTERM into a checkpoint at the end of the running step, then :class:`sfa.errors.Interrupted`.

    All ranks stop at the same step. A second Ctrl-C ends the process immediately; SIGTERM does not, because the
    launcher sends one right after the first Ctrl-C, and kills remaining processes 30 s later. List it after the
    checkpoint saver.

    Args:
        total: the training's steps; a signal during the last one lets the stage be finished.
    """

    def __init__(self, total: int) -> None:
        self.total, self.requested = total, False
        self._previous: dict[int, Any] = {}

    def fit_start(self, state: State, logger: Logger) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def batch_end(self, state: State, logger: Logger) -> None:
        if dist.get_world_size() > 1:
            flag = state.device.tensor_to_device(torch.tensor([int(self.requested)]))
            dist.all_reduce(flag, "MAX")
            self.requested = bool(flag.item())

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if (
            self.requested and int(state.timestamp.batch.value) < self.total
        ):  # after the last step, the stage is exported
            where = f"at step {state.timestamp.batch.value}, saved"
            raise Interrupted(f"Interrupted ({where})", "To resume, run the same command again")

    def close(self, state: State, logger: Logger) -> None:
        if self.requested:  # the process is ending; the launcher's SIGTERM may still be on its way
            self._previous.pop(signal.SIGTERM, None)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def checkpoint_saver(folder: str, interval: Fraction, total: int, stopper: Stopper) -> CheckpointSaver:
    """Saves every ``interval`` steps and on a signal; not at the end, where the stage is exported: Composer refuses to
    resume a training that has no step left."""
    clock = Clock(interval)

    def due(state: State, event: Event) -> bool:
        step = int(state.timestamp.batch.value)
        return event == Event.BATCH_CHECKPOINT and step < total and (stopper.requested or clock.is_due(step - 1, step))

    return CheckpointSaver(
        folder=folder,
        filename="ep{epoch}-ba{batch}.pt",
        remote_file_name=None,
        latest_filename=None,
        latest_remote_file_name=None,
        save_interval=due,
        overwrite=True,
        num_checkpoints_to_keep=1,
    )


class Leftovers(Callback):
    """Deletes the checkpoints that interrupted processes left as soon as this one has written a newer one: the saver
    only deletes its own. List it after the saver.

    Args:
        saver: the checkpoint saver.
        left: the checkpoints that exist at the start.
    """

    def __init__(self, saver: CheckpointSaver, left: Sequence[Path]):
        self.saver, self.left = saver, left

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if not self.left or not self.saver.saved_checkpoints or dist.get_global_rank() != 0:
            return
        written = Path(self.saver.saved_checkpoints[-1])  # a file, or a file in a folder of shards
        for checkpoint in self.left:
            if checkpoint.name in (written.name, written.parent.name):
                continue
            if checkpoint.is_dir():
                shutil.rmtree(checkpoint)
            else:
                checkpoint.unlink()
        self.left = []


def bare_model(state: State) -> nn.Module:
    """The model inside Composer's and DDP's wrappers."""
    wrapped = state.model.module if isinstance(state.model, DistributedDataParallel) else state.model
    inner = wrapped.model
    assert isinstance(inner, nn.Module)
    return inner
