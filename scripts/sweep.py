"""Runs a sweep: every stage that its runs need, once, each in a process of its own, then the runs' results.

python -m scripts.sweep yamls/sweeps/methods.yaml --out results/methods.md
python -m scripts.sweep yamls/sweeps/methods.yaml seeds=[17] eval.limit=50
python -m scripts.sweep yamls/quickstart.yaml --over method sfa --over sfa.p 1 0.5 0.25 0.1 --seeds 17 18 19

A stage that fails does not stop the others; its log is named at the end. Starting again runs what is missing.
"""

import argparse
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval import available
from scripts.summary import finished, table
from sfa.config import ConfigError
from sfa.machine import hardware
from sfa.plan import Stage, in_order, plan
from sfa.store import write_json
from sfa.sweep import SweepRun, expand, read, stages


def sweep(name: str, runs: Sequence[SweepRun], console: Console) -> list[str]:
    """Makes all stages of ``runs`` and writes the runs' results, and ``<save_folder>/<name>.json``, which lists them.

    Returns:
        A line for each stage that failed.
    """
    folder = runs[0].config.save_folder
    jobs = [(stage, run) for stage, run in stages(runs) if not _done(stage, run)]
    console.print(f"{name}: {len(runs)} runs, {len(stages(runs))} stages, {len(jobs)} of them to make")
    failed: dict[str, str] = {}
    columns = (TextColumn("{task.description:<60}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(jobs))
        for i, (stage, run) in enumerate(jobs, 1):
            title = f"{stage.label} ({stage.method}) for {run.label}, seed {run.config.seed}"
            progress.update(bar, description=title)
            if any(needed.fingerprint in failed for needed in in_order([stage])):
                failed[stage.fingerprint] = f"{title}: a stage that it needs failed"
            else:
                log = folder / "logs" / f"{stage.fingerprint}.log"
                code = _in_a_process(_make, [*run.arguments, f"only={stage.fingerprint}"], log)
                if code == 130:
                    raise KeyboardInterrupt
                if code:
                    failed[stage.fingerprint] = f"{title}: exit code {code}, log {log}"
            progress.advance(bar)
            if not console.is_terminal:
                console.print(f"{i}/{len(jobs)}  {failed.get(stage.fingerprint, title)}")
    whole = [run for run in runs if not any(part.fingerprint in failed for part in in_order(plan(run.config)))]
    code = _in_a_process(_finish, [run.arguments for run in whole], folder / "logs" / f"{name}.log")
    if code:
        failed[name] = f"the results: exit code {code}, log {folder / 'logs' / f'{name}.log'}"
    rows = [{"label": run.label, "seed": run.config.seed, "name": run.config.name} for run in runs]
    write_json(folder / f"{name}.json", {"sweep": name, "runs": rows})
    return list(failed.values())


def _done(stage: Stage, run: SweepRun) -> bool:
    return (run.config.save_folder / "stages" / stage.fingerprint / "manifest.json").is_file()


def _in_a_process(work: Callable[[Any], int], given: Any, log: Path) -> int:
    """Exit code of ``work(given)`` in a process of its own, with all it prints in ``log``. The process is a fork of one
    that has imported everything and done nothing, so each measures its own memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "eval.harness", "sfa.run"])
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_logged, args=(work, given, str(log)))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _logged(work: Callable[[Any], int], given: Any, log: str) -> None:
    with open(log, "w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.exit(work(given))


def _make(arguments: list[str]) -> int:
    import train

    return train.main(arguments)


def _finish(runs: list[Sequence[str]]) -> int:
    from eval.harness import Harness
    from sfa import config as configs
    from sfa.run import run

    for arguments in runs:
        config = configs.load(arguments[0], arguments[1:])
        run(config, Harness.of(config), Console())
    return 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 a stage failed, 2 wrong config, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a sweep, or a config with --over")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of all runs")
    parser.add_argument("--over", nargs="+", action="append", default=[], metavar=("KEY", "VALUE"), help="a grid axis")
    parser.add_argument("--seeds", nargs="+", type=int, default=[17], help="beside --over")
    parser.add_argument("--name", help="of the sweep; the file's if it is not given")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    given = parser.parse_intermixed_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        if given.over:
            axes = {key: [yaml.safe_load(value) for value in values] for key, *values in given.over}
            runs = expand(given.file, [axes], given.seeds, given.overrides, available())
        else:
            runs = read(given.file, given.overrides, available())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        failed = sweep(given.name or given.file.stem, runs, console)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. To go on:\n  python -m scripts.sweep {shlex.join(arguments)}")
        return 130
    found = finished(runs)
    if found:
        text = table(found)
        print(f"\n{text}")
        if given.out:
            command = f"python -m scripts.sweep {shlex.join(arguments)}"
            seeds = sorted({run.config.seed for run in runs})
            about = f"`{command}`\n\nSeeds {seeds}, {hardware()}, {time.strftime('%Y-%m-%d')}."
            given.out.write_text(f"{about}\n\n{text}\n")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
