"""The progress of a training: a live line in a terminal, otherwise ten lines in total."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from sfa.schedule import Clock

WIDE, BAR = 120, 12  # columns of a terminal in which a line has room for a bar, and of that


@dataclass(frozen=True)
class Position:
    """Where a training is in its run.

    Attributes:
        title: the stage's place, name and method.
        unit: what its data are counted in, ``tokens`` or ``images``.
        later: steps of the trainings that follow it in the run, as far as they are known.
    """

    title: str
    unit: str
    later: int


class ProgressBar(Callback):
    """Stage, step, loss, learning rate, pace, next merge and the time left of the stage and of the run. Rank 0 only.

    The pace is that of steps alone; the time left includes evaluations and checkpoints as they were so far.
    """

    def __init__(self, position: Position, total: int, merges: Clock | None, console: Console):
        self.position, self.total, self.merges, self.console = position, total, merges, console
        self.clock = Clock(Fraction(total, 10), total)
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        bar = [BarColumn(BAR)] if console.width >= WIDE else []
        self.live = console.is_terminal and dist.get_global_rank() == 0
        self.progress = Progress(*bar, text, console=console, disable=not self.live, refresh_per_second=4)
        self.room = console.width - (BAR + 1 if bar else 0)
        self.bar = self.progress.add_task(position.title, total=total)
        self.started, self.first = 0.0, 0
        self.stepping, self.amount, self._since = 0.0, 0, (0.0, 0)

    def fit_start(self, state: State, logger: Logger) -> None:
        self.started, self.first = time.perf_counter(), int(state.timestamp.batch.value)
        if self.live:
            self.progress.start()

    def batch_start(self, state: State, logger: Logger) -> None:
        self._since = (time.perf_counter(), int(state.timestamp.token.value))

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch.value)
        self.stepping += time.perf_counter() - self._since[0]
        self.amount += int(state.timestamp.token.value) - self._since[1]
        if self.live:
            parts = [f"{self.position.title}  {step}/{self.total}", *self._status(state, step)]
            self.progress.update(self.bar, completed=step, description=fitting(parts, self.room))
        elif self.clock.is_due(step - 1, step):
            self.console.print(f"{self.position.title}  {step}/{self.total}  {'  '.join(self._status(state, step))}")

    def fit_end(self, state: State, logger: Logger) -> None:
        self.progress.stop()

    def close(self, state: State, logger: Logger) -> None:
        self.progress.stop()

    def _status(self, state: State, step: int) -> list[str]:
        loss = float(state.total_loss_dict.get("loss/train/total", float("nan")))
        rate = float(state.optimizers[0].param_groups[0]["lr"])
        merge = self.merges.next_after(step) if self.merges is not None else None
        seconds = (time.perf_counter() - self.started) / max(step - self.first, 1)
        stage, later = (self.total - step) * seconds, self.position.later * seconds
        lost, learning = f"loss {loss:6.3f}", f"lr {rate:.1e}"
        pace = f"{self.amount / max(self.stepping, 1e-9):,.0f} {self.position.unit}/s"
        merging = [f"next merge {merge}"] if merge is not None else []
        left = f"{as_clock(stage)} left" + (f", {as_clock(stage + later)} of the run" if later else "")
        # In a terminal, what comes last has to fit.
        return [lost, left, *merging, learning, pace] if self.live else [lost, learning, pace, *merging, left]


def fitting(parts: Sequence[str], width: int) -> str:
    """The first ``parts`` next to each other, as many as fit into ``width``; of the first, what fits."""
    line = parts[0] if len(parts[0]) <= width else f"{parts[0][: width - 1]}…"
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


def as_clock(seconds: float) -> str:
    """A duration as ``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
