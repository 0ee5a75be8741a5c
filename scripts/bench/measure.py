"""Measures the same work done by ours and by another, in turn, again and again: only ratios of one series count."""

import ctypes
import gc
import json
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import psutil
import torch
from torch.utils.benchmark import timer

from sfa import machine
from sfa.errors import SFAError


@dataclass(frozen=True)
class Setup:
    """What the lines are measured on.

    Attributes:
        device: ``cpu`` or ``cuda``.
        data_folder: local copies of hub data sets, as in a config; ``None``: the hub.
        scratch: an empty folder for models, runs and checkpoints; it is removed at the end.
        small: sizes and rounds that only try the code out; what comes out says nothing.
    """

    device: str
    data_folder: Path | None
    scratch: Path
    small: bool = False

    def rounds(self, wanted: int) -> int:
        """How often to measure: ``wanted`` times, twice if only the code is tried out."""
        return 2 if self.small else wanted


class Medians(TypedDict):
    """Of both sides; ``other`` is ``None`` where nothing is compared."""

    ours: float
    other: float | None


class Ratio(TypedDict):
    """Of the rounds."""

    median: float
    low: float
    high: float


class RowRecord(TypedDict):
    """A row in ``bench.json``: what :class:`Row` holds, and what it comes to."""

    line: str
    case: str
    against: str
    ours: list[float]
    other: list[float]
    bound: float | None
    sense: Literal["at most", "at least"]
    unit: str
    note: str
    ratios: list[float]
    median: Medians
    ratio: Ratio
    holds: bool | None


class Outcome(TypedDict, total=False):
    """The rows of a line, or why it was not measured."""

    rows: list[RowRecord]
    missing: str


class LineRecord(Outcome):
    """A line in ``bench.json``."""

    date: str
    seconds: int


class HardwareRecord(TypedDict):
    """What was measured on one machine or GPU."""

    device: str
    lines: dict[str, LineRecord]
    versions: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One comparison. Each round measured both, so ``ours[i]`` and ``other[i]`` belong together.

    Attributes:
        line: of the benchmark.
        case: what exactly was measured.
        against: what ``other`` is.
        ours: a number a round.
        other: a number a round; empty where nothing is compared, and the bound is one on ``ours``.
        bound: what the ratio is to reach; ``None``: it is told only.
        sense: ``at most`` bounds ours/other, ``at least`` other/ours, how much faster or smaller ours is.
        unit: of ``ours`` and ``other``.
        note: what a reader must know beside it.
    """

    line: str
    case: str
    against: str
    ours: Sequence[float]
    other: Sequence[float] = ()
    bound: float | None = None
    sense: Literal["at most", "at least"] = "at most"
    unit: str = "s"
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each round, as ``sense`` says; of ours alone where nothing is compared."""
        if not self.other:
            return list(self.ours)
        pairs = list(zip(self.ours, self.other, strict=True))
        return [mine / its for mine, its in pairs] if self.sense == "at most" else [its / mine for mine, its in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the median ratio keeps the bound."""
        if self.bound is None:
            return None
        return self.ratio <= self.bound if self.sense == "at most" else self.ratio >= self.bound

    def record(self) -> RowRecord:
        """For ``bench.json``."""
        return {
            "line": self.line,
            "case": self.case,
            "against": self.against,
            "ours": list(self.ours),
            "other": list(self.other),
            "bound": self.bound,
            "sense": self.sense,
            "unit": self.unit,
            "note": self.note,
            "ratios": self.ratios,
            "median": {
                "ours": statistics.median(self.ours),
                "other": statistics.median(self.other) if self.other else None,
            },
            "ratio": {"median": self.ratio, "low": min(self.ratios), "high": max(self.ratios)},
            "holds": self.holds,
        }


class Missing(SFAError):
    """Something that a line needs is not there; the message says what, and how to get it."""


def in_turn(works: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, all of ``works`` once a round, by the clock of ``torch.utils.benchmark``, which waits for a
    GPU. Every other round goes backwards, so that none gains by its place. ``warm_up`` rounds before do not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm_up, rounds):
        for name in list(works)[:: -1 if number % 2 else 1]:
            start = timer()
            works[name]()
            seconds = timer() - start
            if number >= 0:
                taken[name].append(seconds)
    return taken


@dataclass
class Commands:
    """What commands took: seconds of wall time by hyperfine, and peak resident bytes by ``/usr/bin/time``."""

    seconds: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


def commands_in_turn(
    commands: Mapping[str, Sequence[str]], rounds: int, before: Callable[[str], Any] | None = None, warm_up: int = 1
) -> dict[str, Commands]:
    """Runs all of ``commands`` once a round, each by hyperfine.

    Args:
        commands: words of each command.
        rounds: that count.
        before: is told which command comes, before each.
        warm_up: rounds that do not count, so that files lie in memory for all.

    Raises:
        Missing: hyperfine or GNU time is not installed.
        RuntimeError: a command failed; holds the end of what it printed.
    """
    taken = {name: Commands() for name in commands}
    for number in range(-warm_up, rounds):
        for name, command in commands.items():
            if before is not None:
                before(name)
            seconds, peak = _command(command)
            if number >= 0:
                taken[name].seconds.append(seconds)
                taken[name].peak.append(peak)
    return taken


def _command(command: Sequence[str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        times, memory, printed = Path(folder, "times.json"), Path(folder, "memory.txt"), Path(folder, "printed.txt")
        measured = ["/usr/bin/time", "-v", "-o", str(memory), *command]
        tool = ["hyperfine", "--shell=none", "--runs=1", "--style=none", f"--export-json={times}"]
        if not all(map(shutil.which, ("hyperfine", "/usr/bin/time"))):
            raise Missing("hyperfine or GNU time is not installed: apt-get install hyperfine time")
        call = [*tool, f"--output={printed}", shlex.join(measured)]
        done = subprocess.run(call, check=False, capture_output=True, text=True)
        if done.returncode:
            tail = printed.read_text()[-2000:] if printed.is_file() else ""
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-1000:]}{tail}")
        found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", memory.read_text())
        assert found is not None, "GNU time writes it"
        return float(json.loads(times.read_text())["results"][0]["times"][0]), 1024.0 * int(found[1])


def resident() -> float:
    """Bytes of host memory that this process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back what is free, which would hide what is taken next
    return float(psutil.Process().memory_info().rss)


def held() -> float:
    """Bytes that this process holds: on the GPU, or resident where there is none."""
    found = resident()
    return float(torch.cuda.memory_allocated()) if torch.cuda.is_available() else found


def peak(work: Callable[[], Any]) -> float:
    """Bytes that a call takes at its peak, beside what is held."""
    held()
    machine.reset_peak()
    before = machine.peak()
    work()
    return float(machine.peak() - before)
