"""The graph of stages that a run needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sfa.data import Task
from sfa.schema import Config, Section, Train
from sfa.store import fingerprint, identity

FORMAT = 4  # raised when a change of the code changes what a stage's weights would be
WHILE_TRAINING = ("sfa", "rehearsal", "l1", "l2", "ewc")
OF_SINGLE_TASKS = ("task_arithmetic", "ties", "fisher", "soup")


@dataclass(frozen=True)
class Stage:
    """One step of a run. ``spec`` holds all that determines its weights; equal specs are one stage.

    Attributes:
        spec: canonical description, with the fingerprints of the stages it comes from.
        label: ``base``, the name of the task, or ``multitask``.
        method: that was in force while it trained, or that merged it.
        parent: whose weights are θ_o: a training starts from it, and the distance is measured from it.
        tasks: what it trains on, one task or several mixed.
        train: how it trains; ``None`` if it merges.
        block: the method's settings.
        past: the stages of the tasks before, oldest first.
        sources: of a merge, the stages that are merged; the first is what the others are measured from.
    """

    spec: dict[str, Any]
    label: str
    method: str
    parent: "Stage | None" = None
    tasks: tuple[Task, ...] = ()
    train: Train | None = None
    block: Section | None = None
    past: tuple["Stage", ...] = ()
    sources: tuple["Stage", ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"format": FORMAT, **self.spec})


def plan(config: Config) -> list[Stage]:
    """The stages of a run that are evaluated, in order: the base, then one for each task of the stream, or one for all
    of them. :func:`in_order` adds those that they need.

    The first task has nothing to forget, so it is trained alike under every method and shared by all of them. Where a
    method merges models of single tasks, the stage of a task is the merge of all up to it.
    """
    base, trained = base_stage(config), [task for task in config.tasks if not task.held_back]
    if config.method == "multitask":
        return [base, train_stage(config, trained, "multitask", base)]
    if config.method in OF_SINGLE_TASKS:
        return [base, *_merged(config, trained, base)]
    stages = [base]
    for i, task in enumerate(trained):
        if i and _averages_once(config):
            stages.append(_averaged(config, task, stages[-1], stages[1:]))
        else:
            method = config.method if i else "sequential"
            stages.append(train_stage(config, [task], method, stages[-1], stages[1:]))
    return stages


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """``stages`` and all that they need, each once, after those that it needs itself."""
    found: dict[str, Stage] = {}

    def add(stage: Stage) -> None:
        if stage.fingerprint not in found:
            for needed in (*([stage.parent] if stage.parent else []), *stage.sources):
                add(needed)
            found[stage.fingerprint] = stage

    for stage in stages:
        add(stage)
    return list(found.values())


def base_stage(config: Config) -> Stage:
    """The model that the stream starts from. Random weights, and the new head of an image classifier, depend on the
    seed; weights in a folder are told by their content, those on the hub by name and revision."""
    model = config.model.model_dump(mode="json", exclude_none=True, exclude={"template", "system", "date"})
    spec: dict[str, Any] = {"kind": "base", "model": model}
    if config.model.name is not None and Path(config.model.name).is_dir():
        files = sorted(file for file in Path(config.model.name).iterdir() if file.is_file())
        spec["files"] = {file.name: identity(file) for file in files}
    if config.model.tokenizer is not None:
        spec["tokenizer"] = [task.data_spec() for task in config.tokenizer_tasks()]
    if config.classes() is not None:
        spec["classes"] = config.classes()
    if config.model.name is None or config.model.lora is not None or config.classes() is not None:
        spec["seed"] = config.seed
    return Stage(spec, "base", "none")


def train_stage(config: Config, tasks: Sequence[Task], method: str, parent: Stage, past: Sequence[Stage] = ()) -> Stage:
    """One task, or several mixed, trained from ``parent``."""
    train = config.train_of(tasks[0]) if len(tasks) == 1 else _train_of_all(config, tasks)
    block = getattr(config, method) if method in WHILE_TRAINING else None
    spec = {
        "kind": "train",
        "parent": parent.fingerprint,
        "tasks": [task.data_spec() for task in tasks],
        "template": config.model.template,
        **config.model.layout.extras(),
        "train": train.weights_spec(),
        "method": {"name": method, **(block.weights_spec() if block else {})},
        "seed": config.seed,
    }
    label = method if method == "multitask" else tasks[0].name
    return Stage(spec, label, method, parent, tuple(tasks), train, block, tuple(past))


def _averages_once(config: Config) -> bool:
    """Whether the method is one average after the training of each task: WiSE-FT, and SFA with p=1."""
    sfa = config.sfa
    return config.method == "wise_ft" or (config.method == "sfa" and sfa.p == 1)


def _averaged(config: Config, task: Task, before: Stage, past: Sequence[Stage]) -> Stage:
    """β·θ_o + (1−β)·θ, where θ is trained from θ_o without intervention."""
    alone = train_stage(config, [task], "sequential", before, past)
    beta = config.wise_ft.beta if config.method == "wise_ft" else config.sfa.beta
    return _merge(task.name, config.method, "average", {"beta": beta}, before, (before, alone))


def _merged(config: Config, tasks: Sequence[Task], base: Stage) -> list[Stage]:
    """After each task, the merge of the models that were trained on each task so far alone."""
    singles = [train_stage(config, [task], "sequential", base) for task in tasks]
    options = {} if config.method == "soup" else getattr(config, config.method).weights_spec()
    weights = options.pop("weights", None) or [1 / len(tasks)] * len(tasks)
    stages: list[Stage] = []
    for k, task in enumerate(tasks, 1):
        first = [weight * sum(weights) / (sum(weights[:k]) or 1) for weight in weights[:k]]
        own = options if config.method == "soup" else {"weights": first, **options}
        parent = stages[-1] if stages else base
        merged = _merge(task.name, config.method, config.method, own, parent, (base, *singles[:k]))
        stages.append(replace(merged, block=None if config.method == "soup" else getattr(config, config.method)))
    return stages


def _merge(
    label: str, method: str, how: str, options: dict[str, Any], parent: Stage, sources: tuple[Stage, ...]
) -> Stage:
    spec = {
        "kind": "merge",
        "method": {"name": how, **options},
        "sources": [source.fingerprint for source in sources],
        "from": parent.fingerprint,
    }
    return Stage(spec, label, method, parent, sources=sources)


def _train_of_all(config: Config, tasks: Sequence[Task]) -> Train:
    """The run's settings for all tasks at once: epochs go over all rows, steps and tokens are those of all tasks."""
    durations = [config.train_of(task).max_duration.replace("_", "") for task in tasks]
    unit = config.train.max_duration.lstrip("0123456789_")
    if unit == "ep" or not all(duration.endswith(unit) for duration in durations):
        return config.train
    total = sum(int(duration.removesuffix(unit)) for duration in durations)
    return config.train.model_copy(update={"max_duration": f"{total}{unit}"})
