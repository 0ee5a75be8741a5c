"""The graph of stages that a run needs."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfa import hub
from sfa.data import Task
from sfa.data.template import Layout
from sfa.schedule import Duration
from sfa.store import fingerprint, identity

if TYPE_CHECKING:
    from sfa.config.schema import Config, Train
    from sfa.families import Family
    from sfa.families.settings import Model
    from sfa.methods import Method

FORMAT = 5  # raised when a change of the code changes what a stage's weights would be
UNSPLIT = (  # models of the paper without dropout, so that their dry run needs no hub
    "EleutherAI/pythia-2.8b",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-1.5B",
    "google/vit-base-patch16-224-in21k",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """One step of a run. Its fingerprint is made from all that determines its weights; equal ones are one stage.

    Attributes:
        label: ``base``, the name of the task, or of several.
        method: that was in force while it trained, or that merged it, as results call it.
    """

    label: str
    method: str

    @property
    def parent(self) -> "Stage | None":
        """Whose weights are θ_o: a training starts from it, and the distance is measured from it."""
        return None

    @property
    def needs(self) -> Sequence["Stage"]:
        """The stages that it is made from."""
        return ()

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """All that determines its weights, with the fingerprints of the stages it is made from."""

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"format": FORMAT, **self.spec()})


@dataclass(frozen=True, eq=False, kw_only=True)
class Base(Stage):
    """The model that a stream starts from.

    Attributes:
        model: of the config.
        files: content hashes of a model folder's files, by name.
        commit: of a model on the hub; ``None``: the hub is off, or the model is not from there.
        tokenizer_tasks: that a tokenizer of its own is trained on.
        tokenizer_data: what determines their rows.
        family: that the stream is for.
        seed: of random weights, adapters or a new head; ``None``: nothing is drawn.
    """

    label: str = "base"
    method: str = "none"
    model: "Model"
    files: Mapping[str, str] | None = None
    commit: str | None = None
    tokenizer_tasks: Sequence[Task] = ()
    tokenizer_data: Sequence[Any] | None = None
    family: "Family"
    seed: int | None = None

    def spec(self) -> dict[str, Any]:
        shown = {"template", "system", "date", "revision"}
        described = self.model.model_dump(mode="json", exclude_none=True, exclude=shown)
        found: dict[str, Any] = {"kind": "base", "model": described}
        if self.files is not None:
            found["files"] = dict(self.files)
        elif self.model.name is not None:
            # Without a commit nothing can be had, so this is of dry runs alone.
            found |= {"commit": self.commit} if self.commit else {"revision": self.model.revision}
        optional = {"tokenizer": self.tokenizer_data, **self.family.base_spec(), "seed": self.seed}
        return found | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class Training(Stage):
    """One task, or several mixed, trained from a model.

    Attributes:
        start: the stage that it starts from.
        tasks: what it trains on.
        data: what determines their rows.
        train: how it trains.
        precision: ``fp32`` or ``amp_bf16``.
        layout: how prompts are shown.
        block: the method's settings.
        seed: of the order of rows, and of all that is drawn.
        split: ranks and sequences a rank computes at once, where weights depend on them beyond rounding.
        past: the stages of the tasks before, oldest first.
    """

    start: Stage
    tasks: Sequence[Task]
    data: Sequence[Any]
    train: "Train"
    precision: str
    layout: Layout
    block: "Method"
    seed: int
    split: Mapping[str, int] | None = None
    past: Sequence[Stage] = ()

    @property
    def parent(self) -> Stage:
        return self.start

    @property
    def needs(self) -> Sequence[Stage]:
        return (self.start,)

    def spec(self) -> dict[str, Any]:
        found = {
            "kind": "train",
            "parent": self.start.fingerprint,
            "tasks": list(self.data),
            "template": self.layout.template,
            **self.layout.extras(),
            "train": {**self.train.weights_spec(), "precision": self.precision},
            "method": {"name": self.block.name, **self.block.weights_spec()},
            "seed": self.seed,
        }
        return found | ({"split": dict(self.split)} if self.split is not None else {})


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Stage):
    """A merge of models.

    Attributes:
        before: the stage that the distance is measured from.
        sources: the stages that are merged; where ``merger`` measures from a base, or may, that is the first.
        merger: how.
        seed: of what the merge draws; ``None``: it draws nothing.
    """

    before: Stage
    sources: Sequence[Stage]
    merger: "Method"
    seed: int | None = None

    @property
    def parent(self) -> Stage:
        return self.before

    @property
    def needs(self) -> Sequence[Stage]:
        return (self.before, *self.sources)

    def spec(self) -> dict[str, Any]:
        found = {
            "kind": "merge",
            "method": {"name": self.merger.merge_name, **self.merger.weights_spec()},
            "sources": [source.fingerprint for source in self.sources],
            "from": self.before.fingerprint,
        }
        return found | ({"seed": self.seed} if self.seed is not None else {})


class Stream:
    """What a method plans its stages with.

    Attributes:
        base: the model that the stream starts from.
        tasks: those that are trained, in order.
    """

    def __init__(self, config: "Config"):
        self._config = config
        self.base: Stage = _base(config)
        self.tasks = [task for task in config.tasks if not task.evaluate_only]

    def train(
        self, tasks: Sequence[Task], method: "Method", start: Stage, past: Sequence[Stage] = (), label: str = ""
    ) -> Stage:
        """One task, or several mixed, trained from ``start``; ``label`` is the first task's name if it is empty."""
        config = self._config
        train = config.train_of(tasks[0]) if len(tasks) == 1 else _train_of_all(config, tasks)
        return Training(
            label=label or tasks[0].name,
            method=method.name,
            start=start,
            tasks=tuple(tasks),
            data=[task.data_spec() for task in tasks],
            train=train,
            precision=precision(train),
            layout=config.model.layout,
            block=method,
            seed=config.seed,
            split=_split(train) if splits_matter(config) else None,
            past=tuple(past),
        )

    def merge(self, label: str, method: str, merger: "Method", parent: Stage, sources: Sequence[Stage]) -> Stage:
        """A merge by ``merger``, which results call by ``label`` and ``method``."""
        seed = self._config.seed if merger.draws else None
        return Merge(label=label, method=method, before=parent, sources=tuple(sources), merger=merger, seed=seed)


def plan(config: "Config") -> list[Stage]:
    """The stages of a run that are evaluated, in order: the base, then those of its method. :func:`in_order` adds those
    that they need."""
    return config.block.stages(Stream(config))


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """``stages`` and all that they need, each once, after those that it needs itself."""
    known: dict[str, Stage] = {}
    sorter: TopologicalSorter[str] = TopologicalSorter()

    def add(stage: Stage) -> None:
        if stage.fingerprint in known:
            return
        known[stage.fingerprint] = stage
        for needed in stage.needs:
            add(needed)
        sorter.add(stage.fingerprint, *(needed.fingerprint for needed in stage.needs))

    for stage in stages:
        add(stage)
    return [known[name] for name in sorter.static_order()]


def _base(config: "Config") -> Base:
    """The base of a run. Random weights, adapters and a new head depend on the seed; weights in a folder are identified
    by their content, those on the hub by their commit."""
    model, files, commit = config.model, None, None
    if model.name is not None and Path(model.name).is_dir():
        files = {file.name: identity(file) for file in sorted(Path(model.name).iterdir()) if file.is_file()}
    elif model.name is not None:
        commit = hub.commit(model.name, model.revision)
    tokenizer_tasks = config.tokenizer_tasks()
    family = config.family()
    return Base(
        model=model,
        files=files,
        commit=commit,
        tokenizer_tasks=tokenizer_tasks,
        tokenizer_data=[task.data_spec() for task in tokenizer_tasks] if model.tokenizer is not None else None,
        family=family,
        seed=config.seed if family.has_random_weights(model) else None,
    )


def precision(train: "Train") -> str:
    """``fp32`` or ``amp_bf16``, which ``auto`` stands for on this machine."""
    if train.precision != "auto":
        return train.precision
    import torch

    return "amp_bf16" if torch.cuda.is_available() else "fp32"


def splits_matter(config: "Config") -> bool:
    """Whether weights depend on how a batch is split over ranks and microbatches, beyond rounding: each part draws its
    own dropout, and normalises by its own statistics."""
    if config.model.lora is not None and config.model.lora.dropout > 0:
        return True
    if config.model.name in UNSPLIT:
        return False
    from sfa.families.models import has_noise  # seconds to import

    return has_noise(config.model, config.family())


def _split(train: "Train") -> dict[str, int]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    each = train.global_batch_size // ranks
    return {"ranks": ranks, "microbatch_size": min(train.microbatch_size or each, each)}


def _train_of_all(config: "Config", tasks: Sequence[Task]) -> "Train":
    """The run's settings for all tasks at once: epochs go over all rows, steps and tokens are those of all tasks."""
    durations = [Duration.parse(config.train_of(task).max_duration) for task in tasks]
    unit = Duration.parse(config.train.max_duration).unit
    if unit == "ep" or any(duration.unit != unit for duration in durations):
        return config.train
    total = Duration(sum((duration.value for duration in durations), start=durations[0].value * 0), unit)
    return config.train.model_copy(update={"max_duration": str(total)})
