"""What a stage's method adds to its Trainer, and the merges that stand in for a training."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.core import Algorithm
from torch import Tensor

from sfa import merging
from sfa.algorithm import SFA
from sfa.context import Context
from sfa.fisher import Fisher
from sfa.penalties import Kind, Penalty
from sfa.plan import Stage
from sfa.schedule import exact_fraction, in_steps, interval_steps
from sfa.schema import EWC, FisherMerging, PenaltyBlock, SFABlock
from sfa.store import fingerprint

Examples = Callable[[Stage, int], list[dict[str, Tensor]]]


def algorithms(stage: Stage, context: Context, total: int, epoch: float, examples: Examples) -> list[Algorithm]:
    """The algorithms of a stage's method, to be listed before gradient clipping.

    Args:
        stage: that is trained.
        context: of the run.
        total: T, steps.
        epoch: steps of an epoch, perhaps not whole.
        examples: gives a number of training examples of a past stage's task, as that was trained, one a batch.
    """
    assert stage.parent is not None
    block = stage.block
    if isinstance(block, SFABlock):
        every = block.every
        if every is not None and every.endswith("ep"):  # the Trainer sees all epochs as one
            every = f"{math.ceil(in_steps(every, total, epoch))}ba"
        anchor, reset = str(context.model(stage.parent)), block.reset_optimizer_on_merge
        return [SFA(block.p, every, block.beta, anchor, block.anchor_device, reset, built_from_anchor=True)]
    if isinstance(block, EWC):
        fishers = [_fisher(past, stage.parent, block, context, examples) for past in stage.past]
        return [Penalty("ewc", block.strength, fishers=fishers, anchor_device=block.anchor_device)]
    if isinstance(block, PenaltyBlock):
        kind: Kind = "l1" if stage.method == "l1" else "l2"
        return [Penalty(kind, block.strength, anchor_device=block.anchor_device)]
    return []


def merge_points(stage: Stage, total: int, epoch: float) -> list[int]:
    """The steps at which a stage is known to merge before it starts."""
    if not isinstance(stage.block, SFABlock):
        return []
    if stage.block.p is not None:
        return interval_steps(total, exact_fraction(stage.block.p) * total)
    every = str(stage.block.every)
    return interval_steps(total, in_steps(every, total, epoch)) if every.endswith(("ba", "dur")) else []


def merge(stage: Stage, context: Context, fisher_of: Callable[[Stage, FisherMerging], Path]) -> None:
    """Makes the model of a stage that merges. Rank 0 calls it."""
    sources, out = [context.model(source) for source in stage.sources], context.model(stage)
    shutil.rmtree(out, ignore_errors=True)  # of a process that ended before the stage had a manifest
    options: dict[str, Any] = {key: value for key, value in stage.spec["method"].items() if key != "name"}
    match stage.spec["method"]["name"]:
        case "average":
            merging.average(sources[0], sources[1], options["beta"], out)
        case "soup":
            merging.soup(sources[1:], out)
        case "task_arithmetic":
            merging.task_arithmetic(sources[0], sources[1:], options["weights"], out)
        case "ties":
            merging.ties(sources[0], sources[1:], options["weights"], out, options["density"], options["scale"])
        case "fisher":
            assert isinstance(stage.block, FisherMerging)
            fishers = [fisher_of(source, stage.block) for source in stage.sources[1:]]
            merging.fisher(sources[1:], fishers, options["weights"], out, stage.block.normalize)


def fisher_folder(stage: Stage, block: EWC | FisherMerging, context: Context) -> Path:
    """Where the Fisher information of a stage's task at its weights is kept."""
    key = fingerprint({"labels": block.labels, "examples": block.examples, "seed": context.config.seed})
    return context.folder(stage) / f"fisher-{key}"


def _fisher(past: Stage, parent: Stage, block: EWC, context: Context, examples: Examples) -> Fisher:
    return Fisher(
        folder=fisher_folder(past, block, context),
        anchor=None if block.fisher == "accumulated" or past is parent else str(context.model(past)),
        here=past is parent,
        examples=lambda: examples(past, block.examples),
        labels=block.labels,
        seed=context.config.seed,
        model=str(context.model(past)),
    )
