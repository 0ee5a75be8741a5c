"""Measures the same work done by our code and by another tool, alternately; only ratios within a series are used."""

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
    """Settings of a measurement.

    Attributes:
        device: ``cpu`` or ``cuda``.
        data_folder: local copies of hub data sets, as in a config; ``None``: the hub.
        scratch: an empty folder for models, runs and checkpoints; removed at the end.
        small: minimal sizes and rounds to test the code; the numbers are meaningless.
    """

    device: str
    data_folder: Path | None
    scratch: Path
    small: bool = False

    def rounds(self, wanted: int) -> int:
        """How often to measure: ``wanted`` times, or twice for a ``small`` setup."""
        return 2 if self.small else wanted


class Medians(TypedDict):
    """Medians of both sides; ``other`` is ``None`` if nothing is compared."""

    ours: float
    other: float | None


class Ratio(TypedDict):
    """The ratio over the rounds."""

    median: float
    low: float
    high: float


class RowRecord(TypedDict):
    """A row in ``bench.json``: the fields of :class:`Row` and its results."""

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
    """The rows of a line, or the reason it was not measured."""

    rows: list[RowRecord]
    missing: str


class LineRecord(Outcome):
    """A line in ``bench.json``."""

    date: str
    seconds: int


class HardwareRecord(TypedDict):
    """All lines measured on one machine or GPU."""

    device: str
    lines: dict[str, LineRecord]
    versions: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One comparison. Each round measures both sides, so ``ours[i]`` and ``other[i]`` belong together.

    Attributes:
        line: the line of the benchmark.
        case: what was measured.
        against: what ``other`` is.
        ours: one number per round.
        other: one number per round; empty if nothing is compared, and ``bound`` is then a bound on ``ours``.
        bound: of the ratio; ``None``: the ratio is only reported.
        sense: ``at most`` bounds ours/other; ``at least`` bounds other/ours, how much faster or smaller ours is.
        unit: of ``ours`` and ``other``.
        note: a remark for readers.
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
        """One ratio per round, in the direction of ``sense``; ``ours`` itself if nothing is compared."""
        if not self.other:
            return list(self.ours)
        rounds = list(zip(self.ours, self.other, strict=True))
        return [a / b for a, b in rounds] if self.sense == "at most" else [b / a for a, b in rounds]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the median ratio meets the bound."""
        if self.bound is None:
            return None
        return self.ratio <= self.bound if self.sense == "at most" else self.ratio >= self.bound

    def record(self) -> RowRecord:
        """The row in ``bench.json``."""
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
    """A line cannot be measured because something is missing; the message says what, and how to get it."""


def in_turn(works: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each call by the clock of ``torch.utils.benchmark``, which synchronizes the GPU. Each round calls all
    ``works``, every other round in reverse order, so that none has an advantage. ``warm_up`` rounds are not counted."""
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
    """Costs of a command: seconds of wall time and of CPU time (user and system, of its children too) by hyperfine, and
    peak resident bytes by ``/usr/bin/time``."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


def commands_in_turn(
    commands: Mapping[str, Sequence[str]], rounds: int, before: Callable[[str], Any] | None = None, warm_up: int = 1
) -> dict[str, Commands]:
    """Runs all of ``commands`` once per round, each under hyperfine.

    Args:
        commands: words of each command.
        rounds: number of rounds.
        before: called with a command's name before it runs.
        warm_up: rounds that are not counted, so that files are cached for all.

    Raises:
        Missing: hyperfine or GNU time is not installed.
        RuntimeError: a command failed; the message ends with its output.
    """
    taken = {name: Commands() for name in commands}
    for number in range(-warm_up, rounds):
        for name, command in commands.items():
            if before is not None:
                before(name)
            seconds, cpu, peak = _command(command)
            if number >= 0:
                taken[name].seconds.append(seconds)
                taken[name].cpu.append(cpu)
                taken[name].peak.append(peak)
    return taken


def _command(command: Sequence[str]) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        times, memory, printed = Path(folder, "times.json"), Path(folder, "memory.txt"), Path(folder, "printed.txt")
        measured = ["/usr/bin/time", "-v", "-o", str(memory), *command]
        tool = ["hyperfine", "--shell=none", "--runs=1", "--style=none", f"--export-json={times}"]
        if not all(map(shutil.which, ("hyperfine", "/usr/bin/time"))):
            raise Missing("hyperfine or GNU time is not installed: apt-get install hyperfine time")
        call = [*tool, f"--output={printed}", shlex.join(measured)]
        process = subprocess.run(call, check=False, capture_output=True, text=True)
        if process.returncode:
            tail = printed.read_text()[-2000:] if printed.is_file() else ""
            raise RuntimeError(f"{' '.join(command)} failed: {process.stderr[-1000:]}{tail}")
        match = re.search(r"Maximum resident set size \(kbytes\): (\d+)", memory.read_text())
        assert match is not None, "GNU time always writes it"
        (result,) = json.loads(times.read_text())["results"]
        return float(result["times"][0]), float(result["user"] + result["system"]), 1024.0 * int(match[1])


def resident() -> float:
    """Bytes of host memory held by this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # returns free memory, which would hide the next allocations
    return float(psutil.Process().memory_info().rss)


def held() -> float:
    """Bytes held by this process: on the GPU, or resident if there is none."""
    in_memory = resident()
    return float(torch.cuda.memory_allocated()) if torch.cuda.is_available() else in_memory


def peak(work: Callable[[], Any]) -> float:
    """Peak bytes of a call beyond what is already held."""
    held()
    machine.reset_peak()
    before = machine.peak()
    work()
    return float(machine.peak() - before)
