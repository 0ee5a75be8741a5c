"""The graph of stages that a run needs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sfa.config import Config, SFABlock, Train
from sfa.data import TASKS, Task
from sfa.store import fingerprint

FORMAT = 1  # raised when a change of the code changes what a stage's weights would be


@dataclass(frozen=True)
class Stage:
    """One step of a run. ``spec`` holds all that determines its weights; equal specs are one stage.

    Attributes:
        spec: canonical description, with the parent's fingerprint.
        label: ``base``, or the name of the task.
        method: the method that was in force while it trained.
        parent: the stage that it starts from, whose weights are θ_o.
    """

    spec: dict[str, Any]
    label: str
    method: str
    parent: "Stage | None" = None
    task: Task | None = None
    train: Train | None = None
    sfa: SFABlock | None = None

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"format": FORMAT, **self.spec})


def plan(config: Config) -> list[Stage]:
    """The stages of a run in order: the base, then one for each task of the stream.

    The first task has nothing to forget, so it is trained alike under every method and shared by all of them.
    """
    stages = [base_stage(config)]
    for i, task in enumerate(config.tasks):
        method = config.method if i else "sequential"
        stages.append(train_stage(config, task, method, stages[-1]))
    return stages


def base_stage(config: Config) -> Stage:
    """The model that the stream starts from. Random weights depend on the seed, pretrained ones do not."""
    model = config.model.model_dump(mode="json", exclude_none=True)
    spec: dict[str, Any] = {"kind": "base", "model": model}
    if config.model.tokenizer is not None:
        names = sorted(set(config.model.tokenizer.train_on))
        spec |= {"seed": config.seed, "tokenizer": [TASKS[name]().data_spec() for name in names]}
    return Stage(spec, "base", "none")


def train_stage(config: Config, task: Task, method: str, parent: Stage) -> Stage:
    """One task trained from ``parent``."""
    train = config.train_of(task)
    block = config.sfa if method == "sfa" else None
    spec = {
        "kind": "train",
        "parent": parent.fingerprint,
        "task": task.data_spec(),
        "train": train.weights_spec(),
        "method": {"name": method, **(block.weights_spec() if block else {})},
        "seed": config.seed,
    }
    return Stage(spec, task.name, method, parent, task, train, block)
