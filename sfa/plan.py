"""The graph of stages that a run needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sfa.config import Config, SFABlock, Train
from sfa.data import Task
from sfa.store import fingerprint

FORMAT = 2  # raised when a change of the code changes what a stage's weights would be


@dataclass(frozen=True)
class Stage:
    """One step of a run. ``spec`` holds all that determines its weights; equal specs are one stage.

    Attributes:
        spec: canonical description, with the parent's fingerprint.
        label: ``base``, the name of the task, or ``multitask``.
        method: the method that was in force while it trained.
        parent: the stage that it starts from, whose weights are θ_o.
        tasks: what it trains on, one task or several mixed.
    """

    spec: dict[str, Any]
    label: str
    method: str
    parent: "Stage | None" = None
    tasks: tuple[Task, ...] = ()
    train: Train | None = None
    sfa: SFABlock | None = None

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"format": FORMAT, **self.spec})


def plan(config: Config) -> list[Stage]:
    """The stages of a run in order: the base, then one for each task of the stream, or one for all of them.

    The first task has nothing to forget, so it is trained alike under every method and shared by all of them.
    """
    stages = [base_stage(config)]
    trained = [task for task in config.tasks if not task.held_back]
    if config.method == "multitask":
        return [*stages, train_stage(config, trained, "multitask", stages[0])]
    for i, task in enumerate(trained):
        method = config.method if i else "sequential"
        stages.append(train_stage(config, [task], method, stages[-1]))
    return stages


def base_stage(config: Config) -> Stage:
    """The model that the stream starts from. Random weights depend on the seed, pretrained ones do not."""
    model = config.model.model_dump(mode="json", exclude_none=True, exclude={"template"})
    spec: dict[str, Any] = {"kind": "base", "model": model}
    if config.model.tokenizer is not None:
        spec["tokenizer"] = [task.data_spec() for task in config.tokenizer_tasks()]
    if config.model.name is None or config.model.lora is not None:
        spec["seed"] = config.seed
    return Stage(spec, "base", "none")


def train_stage(config: Config, tasks: Sequence[Task], method: str, parent: Stage) -> Stage:
    """One task, or several mixed, trained from ``parent``."""
    train = config.train_of(tasks[0]) if len(tasks) == 1 else _train_of_all(config, tasks)
    block = config.sfa if method == "sfa" else None
    spec = {
        "kind": "train",
        "parent": parent.fingerprint,
        "tasks": [task.data_spec() for task in tasks],
        "template": config.model.template,
        "train": train.weights_spec(),
        "method": {"name": method, **(block.weights_spec() if block else {})},
        "seed": config.seed,
    }
    return Stage(spec, method if method == "multitask" else tasks[0].name, method, parent, tuple(tasks), train, block)


def _train_of_all(config: Config, tasks: Sequence[Task]) -> Train:
    """The run's settings for all tasks at once: epochs go over all rows, steps and tokens are those of all tasks."""
    durations = [config.train_of(task).max_duration.replace("_", "") for task in tasks]
    unit = config.train.max_duration.lstrip("0123456789_")
    if unit == "ep" or not all(duration.endswith(unit) for duration in durations):
        return config.train
    total = sum(int(duration.removesuffix(unit)) for duration in durations)
    return config.train.model_copy(update={"max_duration": f"{total}{unit}"})
