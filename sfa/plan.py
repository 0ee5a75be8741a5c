"""The graph of stages that a run needs."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sfa import hub
from sfa.data import Task
from sfa.schema import Config, Section, Train
from sfa.store import fingerprint, identity

FORMAT = 5  # raised when a change of the code changes what a stage's weights would be
WHILE_TRAINING = ("sfa", "rehearsal", "l1", "l2", "ewc")
FROM_THE_SECOND_TASK = ("wise_ft", *WHILE_TRAINING)  # before it there is nothing to forget
STAGES_OF_EVERY_RUN = ("base", "multitask")  # labels that are no task's
UNSPLIT = (  # models of the paper without dropout, so that their dry run needs no hub
    "EleutherAI/pythia-2.8b",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-1.5B",
    "google/vit-base-patch16-224-in21k",
)
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


def without_effect(config: Config) -> str | None:
    """Why the method of a run would leave every model as ``sequential`` makes it, or ``None`` if it would not."""
    trained = [task.name for task in config.tasks if not task.held_back]
    if len(trained) == 1 and config.method in FROM_THE_SECOND_TASK:
        return (
            f"{config.method} acts from the second trained task on, and this stream trains {trained[0]} alone: list "
            "the task that the model was tuned on before it, or train with method=sequential and average with the "
            "tuned model afterwards (python -m scripts.merge average)"
        )
    if len(trained) == 1 and config.method in ("soup", "fisher"):
        return (
            f"{config.method} merges the models of several tasks, and this stream trains {trained[0]} alone: list more "
            "tasks, or use method=sequential"
        )
    return None


def neutral_setting(config: Config) -> str | None:
    """The setting, as ``key=value``, with which a method is sequential training, or ``None``. Such a run is the end of
    a sweep's scale, so it is carried out, and says so."""
    neutral = {
        "sfa": {"beta": 0},
        "wise_ft": {"beta": 0},
        "rehearsal": {"fraction": 0},
        "l1": {"strength": 0},
        "l2": {"strength": 0},
        "ewc": {"strength": 0},
    }
    for key, value in neutral.get(config.method, {}).items():
        if getattr(getattr(config, config.method), key) == value:
            return f"{config.method}.{key}={value}"
    return None


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
    seed; weights in a folder are known by their content, those on the hub by their commit."""
    shown = {"template", "system", "date", "revision"}
    described = config.model.model_dump(mode="json", exclude_none=True, exclude=shown)
    spec: dict[str, Any] = {"kind": "base", "model": described}
    if config.model.name is not None and Path(config.model.name).is_dir():
        files = sorted(file for file in Path(config.model.name).iterdir() if file.is_file())
        spec["files"] = {file.name: identity(file) for file in files}
    elif config.model.name is not None:
        # Without a commit nothing can be had, so this is of dry runs alone.
        commit = hub.commit(config.model.name, config.model.revision)
        spec |= {"commit": commit} if commit else {"revision": config.model.revision}
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
        "train": {**train.weights_spec(), "precision": precision(train)},
        "method": {"name": method, **(block.weights_spec() if block else {})},
        "seed": config.seed,
    }
    if splits_matter(config):
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        each = train.global_batch_size // ranks
        spec["split"] = {"ranks": ranks, "microbatch_size": min(train.microbatch_size or each, each)}
    label = method if method == "multitask" else tasks[0].name
    return Stage(spec, label, method, parent, tuple(tasks), train, block, tuple(past))


def precision(train: Train) -> str:
    """``fp32`` or ``amp_bf16``, which ``auto`` stands for on this machine."""
    if train.precision != "auto":
        return train.precision
    import torch

    return "amp_bf16" if torch.cuda.is_available() else "fp32"


def splits_matter(config: Config) -> bool:
    """Whether weights depend on how a batch is split over ranks and microbatches, beyond rounding: each part draws its
    own dropout, and normalises by its own statistics."""
    if config.model.lora is not None and config.model.lora.dropout > 0:
        return True
    if config.model.name in UNSPLIT:
        return False
    from sfa.models import has_noise  # seconds to import

    return has_noise(config.model, config.classes())


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
