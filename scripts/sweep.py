"""Runs a sweep: trains every stage that its runs need once, each in its own process, then writes the runs' results.

sfa sweep yamls/sweeps/methods.yaml --out runs/methods.md
sfa sweep yamls/sweeps/methods.yaml seeds=[17] eval.limit=50 --jobs 2
sfa sweep yamls/quickstart.yaml --over method sfa --over sfa.p 1 0.5 0.25 0.1 --seeds 17 18 19

A stage that fails does not stop the others; its log is named at the end. Run it again to train what is missing.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eval import available
from scripts import executor, files
from scripts.cells import code, terminal_width
from scripts.executor import Job, run_in_process
from scripts.paper.sweeps import read
from scripts.summary import finished, table, terminal_table
from sfa.config.reading import read_value
from sfa.data import FileName
from sfa.machine import hardware
from sfa.orphans import interruptible
from sfa.records import SweptRun
from sfa.runs import is_made, stage_folder, write_sweep
from sfa.stages.plan import plan, topological_order
from sfa.sweep_description import describe_sweep
from sfa.sweeps import SweepRun, expand, stages
from sfa.terminal import command, start


@interruptible()
def sweep(
    name: str,
    runs: Sequence[SweepRun],
    console: Console,
    at_once: int = 1,
    ranks: int = 1,
    ray: str | None = None,
    launcher: Sequence[str] = (),
) -> list[str]:
    """Trains all stages of ``runs``, writes their results, and lists the runs in ``<save_folder>/<name>.json``. SIGINT
    and SIGTERM end it after the running stages have saved a checkpoint.

    Args:
        name: of the sweep.
        runs: of the sweep.
        console: where progress is printed.
        at_once: number of parallel stages on this machine.
        ranks: processes per stage.
        ray: address of a Ray cluster to train on, or ``local``.
        launcher: words of the command that starts each stage, such as ``srun``, instead of ``ranks``.

    Returns:
        One line per failed stage.
    """
    folder = runs[0].config.save_folder
    jobs = _missing(runs, folder)
    console.print(f"{name}: {len(runs)} runs, {len(stages(runs))} stages, {len(jobs)} of them to make")
    with _Progress(console, len(jobs)) as progress:
        if ray is None:
            failed = executor.make_all(jobs, at_once, launcher or executor.composer(ranks, at_once), progress)
        else:
            from scripts import ray_executor

            failed = ray_executor.make_all(jobs, ray, ranks, progress)
    complete = [
        run for run in runs if not any(stage.fingerprint in failed for stage in topological_order(plan(run.config)))
    ]
    log = folder / "logs" / f"{name}.log"
    code = run_in_process(_finish, [run.arguments for run in complete], log)
    if code:
        failed[name] = f"the results: exit code {code}, log {log}"
    write_sweep(folder, {"sweep": name, "runs": [_listed(run) for run in runs]})
    return list(failed.values())


def _listed(run: SweepRun) -> SweptRun:
    """A run's entry in the sweep's file."""
    return {
        "label": run.label,
        "point": run.point,
        "seed": run.config.seed,
        "order": None if run.order is None else list(run.order),
        "name": run.config.name,
        "arguments": list(run.arguments),
    }


def _missing(runs: Sequence[SweepRun], folder: Path) -> list[Job]:
    """The stages that are not on disk yet."""
    jobs: dict[str, Job] = {}
    for stage, run in stages(runs):
        if not is_made(stage_folder(folder, stage.fingerprint)):
            needs = frozenset(dependency.fingerprint for dependency in stage.needs) & jobs.keys()
            jobs[stage.fingerprint] = Job(stage, run, needs, folder / "logs" / f"{stage.fingerprint}.log")
    return list(jobs.values())


class _Progress(Progress):
    """Stages done, running and waiting, with the time left: live in a terminal, else one line per finished stage."""

    def __init__(self, console: Console, total: int):
        columns = (
            TextColumn("stages"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("done, {task.fields[running]} running, {task.fields[waiting]} waiting"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.running: dict[str, Job] = {}  # before the first rendering
        super().__init__(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=3600)
        self.bar, self.total, self.ready = self.add_task("", total=total, running=0, waiting=total), total, 0

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for job in list(self.running.values()):
            yield f"  {job.title}"

    def started(self, job: Job) -> None:
        self.running[job.stage.fingerprint] = job
        self._update_counts()

    def ended(self, job: Job, failure: str | None) -> None:
        self.ready += 1
        self.running.pop(job.stage.fingerprint, None)
        self.advance(self.bar)
        self._update_counts()
        if failure is not None or not self.console.is_terminal:
            self.console.print(f"{self.ready}/{self.total}  {job.title}" + (f": {failure}" if failure else ""))

    def _update_counts(self) -> None:
        running = len(self.running)
        self.update(self.bar, running=running, waiting=self.total - self.ready - running)


def _finish(runs: list[Sequence[str]]) -> int:
    from eval.evaluator import evaluator
    from sfa import config as configs
    from sfa.stages.run import run

    for arguments in runs:
        config = configs.load(arguments[0], arguments[1:])
        run(config, evaluator(config), Console(highlight=False, markup=False, soft_wrap=True))
    return 0


def _value(text: str, key: str) -> Any:
    """A value from the command line, parsed as YAML, as labels show it.

    Raises:
        UsageError: it is not YAML, or a number in an ambiguous notation.
    """
    read_value(text, key)
    return yaml.safe_load(text)


@command("python -m scripts.sweep")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 a stage failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=files.path, help="a sweep, or a config with --over")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides for all runs")
    parser.add_argument(
        "--over", nargs="+", action="append", default=[], metavar=("KEY", "VALUE"), help="a key and its values"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="with --over; default: 17")
    parser.add_argument("--orders", nargs="+", metavar="[0,2,1]", help="orders of tasks, with --over")
    parser.add_argument("--jobs", type=int, default=1, help="parallel stages; they share the cores and GPUs")
    parser.add_argument("--ranks", type=int, default=1, help="processes per stage, under the composer launcher")
    parser.add_argument("--launcher", default="", help="command that starts a stage's train.py, instead of --ranks")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster; local starts one here")
    parser.add_argument("--name", help="of the sweep; default: the file's name")
    parser.add_argument("--against", metavar="LABEL", help="also compare every method with this one, seed by seed")
    parser.add_argument("--out", type=files.path, help="also write the table to this Markdown file")
    args = parser.parse_intermixed_args(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for option in ("jobs", "ranks"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} must be 1 or more, not {getattr(args, option)}")
    if args.over:
        axes = {key: [_value(value, key) for value in values] for key, *values in args.over}
        orders = [_value(order, "--orders") for order in args.orders or []] or [None]
        for order in orders:
            if order is not None and not (isinstance(order, list) and all(type(place) is int for place in order)):
                parser.error(f"--orders takes places of tasks, like [0,2,1], not {str(order)[:40]}")
        runs = expand(args.file, [axes], args.seeds or [17], args.overrides, available, orders)
    else:
        for option in ("seeds", "orders"):
            if getattr(args, option):
                parser.error(f"--{option} needs --over; for a sweep's file, write {option}=[…]")
        runs = read(args.file, args.overrides, available)
    name = args.file.stem if args.name is None else args.name
    try:
        TypeAdapter(FileName).validate_python(name)
    except ValidationError:
        parser.error(f"--name names a file in save_folder, so it cannot be {name[:220]!r}")
    labels = list(dict.fromkeys(run.label for run in runs))
    if args.against is not None and args.against not in labels:
        parser.error(f"--against names a run of the sweep, not {args.against!r}: {', '.join(labels)}")
    if runs[0].config.dry_run:
        print(describe_sweep(name, runs))
        return 0
    launcher = shlex.split(args.launcher)
    failed = sweep(name, runs, console, args.jobs, args.ranks, args.ray, launcher)
    results = finished(runs)
    if results:
        print(f"\n{terminal_table(results, terminal_width(), args.against)}")
        if args.out:
            command_line = f"python -m scripts.sweep {shlex.join(arguments)}"
            seeds = sorted({run.config.seed for run in runs})
            about = f"{code(command_line)}\n\nSeeds {seeds}, {hardware()}, {time.strftime('%Y-%m-%d')}."
            files.write(args.out, f"{about}\n\n{table(results, args.against)}\n")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    start(main)
