"""A whole SFA stage at p=0.25 against the same stage without merges: wall time, on one process, DDP and FSDP2."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.utils import dist
from rich.console import Console

from eval import available
from eval.evaluator import evaluator
from scripts.bench.measure import Row, Setup, in_turn
from scripts.bench.ranks import on_ranks
from sfa import config as configs
from sfa.methods import plain_method
from sfa.stages import stage
from sfa.stages.context import Context
from sfa.stages.plan import plan, topological_order

LINE = "a whole SFA stage, p=0.25"


def run(setup: Setup) -> list[Row]:
    rows = []
    ranks = 1 if setup.device == "cuda" else 2
    kinds = [("none", 1), ("ddp", ranks), ("fsdp2", ranks)]
    steps = 8 if setup.small else 60
    for parallelism, count in kinds[: 1 if setup.small else None]:
        taken, *_ = on_ranks(
            count,
            "scripts.bench.stage:series",
            folder=str(setup.scratch / f"stage-{parallelism}"),
            parallelism=parallelism,
            steps=steps,
            rounds=setup.rounds(25),
        )
        case = f"quickstart's Law, {steps} steps, {parallelism}, {count} rank" + ("s" if count > 1 else "")
        against = "the same stage, sequential"
        rows.append(Row(LINE, case, against, taken["sfa"], taken["plain"], 1.01))
    return rows


def series(folder: str, parallelism: str, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the second stage of the quickstart, from reading its parent to writing its folder, with and
    without merges."""
    shared = [
        f"save_folder={folder}",
        f"parallelism={parallelism}",
        f"trial_duration={steps}ba",
        "tasks=[arithmetic,licences]",
    ]
    shared += ["eval.tasks=[]", "eval.interval=null", "sfa.p=0.25", "loggers={}"]
    works = {"sfa": _work(shared, "sfa"), "plain": _work(shared, plain_method().name)}
    return in_turn(works, rounds)


def _work(shared: list[str], method: str) -> Callable[[], Any]:
    config = configs.load(Path("yamls/quickstart.yaml"), [*shared, f"method={method}"], available)
    context = Context.of(config, evaluator(config), Console(quiet=True))
    *before, last = topological_order(plan(config))
    for planned in before:
        stage.make(planned, context)

    def make() -> None:
        stage.make(last, context)
        dist.barrier()
        if dist.get_global_rank() == 0:
            shutil.rmtree(context.folder(last))
        dist.barrier()

    return make
