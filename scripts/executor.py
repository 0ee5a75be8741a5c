"""Trains the stages of a sweep on this machine, each in its own process, several at a time with ``--jobs``."""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from eval import all_kinds
from sfa import store
from sfa.errors import INTERRUPTED
from sfa.orphans import end_with_parent, run_with_parent
from sfa.runs import is_made, stage_folder
from sfa.stages.plan import Stage
from sfa.sweeps import SweepRun
from sfa.terminal import prepare_streams

SCRIPT = Path(__file__).resolve().parent.parent / "train.py"
POLL = 2.0  # seconds between checks of stages that another process is training


@dataclass(frozen=True)
class Job:
    """A stage to be trained with the settings of ``run``; ``needs`` are fingerprints of jobs that come first."""

    stage: Stage
    run: SweepRun
    needs: frozenset[str]
    log: Path

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``train.py``; the fingerprint is quoted, since one of digits only would be read as a number."""
        return [*self.run.arguments, f"only='{self.stage.fingerprint}'"]

    @property
    def folder(self) -> Path:
        return stage_folder(self.run.config.save_folder, self.stage.fingerprint)

    @property
    def title(self) -> str:
        return f"{self.stage.label} ({self.stage.method_name}) for {self.run.label}, seed {self.run.config.seed}"


class Watcher(Protocol):
    """Is notified when a job starts and when it ends, with the reason if it failed."""

    def started(self, job: Job) -> None: ...

    def ended(self, job: Job, failure: str | None) -> None: ...


def make_all(jobs: Sequence[Job], at_once: int, launcher: Sequence[str], watcher: Watcher) -> dict[str, str]:
    """Runs all jobs in order of their dependencies. If one fails, only those that depend on it are skipped. A stage
    that another process is training is left to it.

    Args:
        jobs: in any order.
        at_once: number of parallel stages; they share the cores and GPUs equally.
        launcher: words of the command that starts each stage; empty: none.
        watcher: is notified of progress.

    Returns:
        The reason of each failure, by fingerprint.

    Raises:
        KeyboardInterrupt: after the running stages have saved a checkpoint.
    """
    waiting = {job.stage.fingerprint: job for job in jobs}
    running: dict[int, tuple[Job, BaseProcess]] = {}
    failed: dict[str, str] = {}
    done: set[str] = set()

    def end(job: Job, failure: str | None) -> None:
        done.add(job.stage.fingerprint)
        if failure is not None:
            failed[job.stage.fingerprint] = f"{job.title}: {failure}"
        watcher.ended(job, failure)

    try:
        while waiting or running:
            elsewhere = False
            for name, job in list(waiting.items()):
                if job.needs & failed.keys():
                    end(waiting.pop(name), "a stage that it needs failed")
                elif job.needs <= done and is_made(job.folder):
                    end(waiting.pop(name), None)
                elif job.needs <= done and store.is_locked(job.folder):
                    elsewhere = True
                elif job.needs <= done and len(running) < at_once:
                    slot = next(i for i in range(at_once) if i not in running)
                    work = functools.partial(run_stage, launcher=launcher)
                    running[slot] = (job, _start(work, job.arguments, job.log, slot, at_once))
                    watcher.started(waiting.pop(name))
            wait([process.sentinel for _, process in running.values()], POLL if elsewhere else None if running else 0)
            for slot, (job, process) in list(running.items()):
                if process.exitcode is not None:
                    del running[slot]
                    if process.exitcode == INTERRUPTED:
                        raise KeyboardInterrupt
                    end(job, f"exit code {process.exitcode}, log {job.log}" if process.exitcode else None)
    except KeyboardInterrupt:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
        raise
    return failed


def run_in_process(work: Callable[[Any], int], argument: Any, log: Path) -> int:
    """Runs ``work(argument)`` in its own process, with its output in ``log``, and returns the exit code."""
    process = _start(work, argument, log, 0, 1)
    process.join()
    return int(process.exitcode or 0)


def _start(work: Callable[[Any], int], argument: Any, log: Path, slot: int, at_once: int) -> BaseProcess:
    """Forks from a server process that has imported everything and done nothing else, so that it starts at once and its
    peak memory is its own."""
    context = multiprocessing.get_context("forkserver")
    modules = [module for kind in all_kinds() for module in kind.modules]
    context.set_forkserver_preload(["scripts.run", "eval.evaluator", *modules, "sfa.stages.run"])
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_logged, args=(work, argument, str(log), slot, at_once))
    process.start()
    return process


def _logged(work: Callable[[Any], int], argument: Any, log: str, slot: int, at_once: int) -> None:
    with open(log, "a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    end_with_parent()
    prepare_streams()
    if at_once > 1:
        import torch

        gpus = torch.cuda.device_count() // at_once
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(slot * gpus + i) for i in range(gpus))
        torch.set_num_threads(max(1, torch.get_num_threads() // at_once))
    sys.exit(work(argument))


def composer(ranks: int, at_once: int = 1) -> list[str]:
    """The command that starts ``train.py`` on several ranks of this machine; empty for one rank. ``at_once`` such
    stages share the cores, unless ``OMP_NUM_THREADS`` is set."""
    if ranks == 1:
        return []
    threads = []
    if at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = ["env", f"OMP_NUM_THREADS={max(1, len(os.sched_getaffinity(0)) // (ranks * at_once))}"]
    return [*threads, str(Path(sys.executable).with_name("composer")), "-n", str(ranks)]


def run_stage(arguments: list[str], launcher: Sequence[str]) -> int:
    """Runs ``train.py`` under ``launcher``, or in this process if that is empty, and returns the exit code."""
    if launcher:
        script = [str(SCRIPT)] if SCRIPT.is_file() else ["-m", "scripts.run"]  # of a clone, or of an installation
        return run_with_parent([*launcher, *script, *arguments])
    from scripts.run import main

    return main(arguments)
