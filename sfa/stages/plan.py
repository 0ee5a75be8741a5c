"""The graph of stages that a run needs."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfa import hub, runs
from sfa.data import Task
from sfa.data.template import Layout
from sfa.models.settings import TUNED
from sfa.runs import model_identities
from sfa.schedule import Duration
from sfa.store import fingerprint
from sfa.values import Spec

if TYPE_CHECKING:
    from sfa.config.schema import Config, Train
    from sfa.families import Family
    from sfa.methods import Method
    from sfa.models.settings import Model

FORMAT = 5  # incremented when a code change changes the weights of a stage
UNSPLIT = (  # models of the paper without dropout, so that their dry run needs no hub
    "EleutherAI/pythia-2.8b",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-1.5B",
    "google/vit-base-patch16-224-in21k",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """One step of a run. Its fingerprint covers all that determines its weights; stages with equal fingerprints are the
    same.

    Attributes:
        label: ``base``, the name of its task, or a name for several.
        method_name: name in results of the method that trained or merged it.
    """

    label: str
    method_name: str

    @property
    def parent(self) -> "Stage | None":
        """The stage with the weights θ_o: training starts from it, and the distance is measured from it."""
        return None

    @property
    def needs(self) -> Sequence["Stage"]:
        """The stages it depends on."""
        return ()

    @abstractmethod
    def spec(self) -> Spec:
        """All that determines its weights, including the fingerprints of the stages it depends on."""

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"format": FORMAT, **self.spec()})


@dataclass(frozen=True, eq=False, kw_only=True)
class Base(Stage):
    """The model that a stream starts from, or the one that it was tuned from.

    Attributes:
        model: the config's model settings.
        files: content hashes of a model folder's files, by name.
        commit: commit of a model on the hub; ``None``: the hub is offline, or the model is not from there.
        tokenizer_tasks: tasks that its tokenizer is trained on.
        tokenizer_data: what determines their rows.
        family: family of the stream.
        seed: seed of random weights, adapters or a new head; ``None``: nothing is random.
    """

    label: str = "base"
    method_name: str = "none"
    model: "Model"
    files: Mapping[str, str] | None = None
    commit: str | None = None
    tokenizer_tasks: Sequence[Task] = ()
    tokenizer_data: Sequence[Any] | None = None
    family: "Family"
    seed: int | None = None

    def spec(self) -> Spec:
        without_effect = {"template", "system", "date", "revision"}
        described = self.model.model_dump(mode="json", exclude_none=True, exclude=without_effect)
        spec: Spec = {"kind": "base", "model": described}
        if self.files is not None:
            spec["files"] = dict(self.files)
        elif self.model.name is not None:
            # Without a commit the model cannot be loaded, so this occurs only in dry runs.
            spec |= {"commit": self.commit} if self.commit else {"revision": self.model.revision}
        optional = {"tokenizer": self.tokenizer_data, **self.family.base_spec(), "seed": self.seed}
        return spec | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class Training(Stage):
    """Training on one task, or on several mixed.

    Attributes:
        start: the stage that it starts from.
        tasks: tasks that it trains on.
        data: what determines their rows.
        train: training settings.
        precision: ``fp32`` or ``amp_bf16``.
        layout: how prompts are formatted.
        method: the method, with its settings.
        seed: seed of the order of rows and of all random numbers.
        split: ranks and microbatch size, if weights depend on them beyond rounding.
        past: stages of the previous tasks, oldest first.
    """

    start: Stage
    tasks: Sequence[Task]
    data: Sequence[Any]
    train: "Train"
    precision: str
    layout: Layout
    method: "Method"
    seed: int
    split: Mapping[str, int] | None = None
    past: Sequence[Stage] = ()

    @property
    def parent(self) -> Stage:
        return self.start

    @property
    def needs(self) -> Sequence[Stage]:
        return (self.start,)

    def spec(self) -> Spec:
        spec = {
            "kind": "train",
            "parent": self.start.fingerprint,
            "tasks": list(self.data),
            "template": self.layout.template,
            **self.layout.extras(),
            "train": {**self.train.weights_spec(), "precision": self.precision},
            "method": {"name": self.method.name, **self.method.weights_spec()},
            "seed": self.seed,
        }
        return spec | ({"split": dict(self.split)} if self.split is not None else {})


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Stage):
    """A merge of models.

    Attributes:
        before: the stage that the distance is measured from.
        sources: the merged stages; the first is the base if ``merger`` uses one, or may.
        merger: the method that merges.
        seed: seed of the merge; ``None``: nothing is random.
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

    def spec(self) -> Spec:
        spec = {
            "kind": "merge",
            "method": {"name": self.merger.merge_name, **self.merger.weights_spec()},
            "sources": [source.fingerprint for source in self.sources],
            "from": self.before.fingerprint,
        }
        return spec | ({"seed": self.seed} if self.seed is not None else {})


class Stream:
    """What a method plans its stages from.

    Attributes:
        given: the stages that exist before the first training, in order: θ_0, and, if it was tuned before, the model
            that the stream starts from, or the stages of the run that it continues.
        tasks: the trained tasks, in order.
    """

    def __init__(self, config: "Config"):
        self._config = config
        self.given: list[Stage] = _given(config)
        trained = config.trained()
        self.tasks = [task for task in config.tasks if task.name in trained]

    @property
    def base(self) -> Stage:
        """The stage of θ_0, which task vectors are relative to."""
        return self.given[0]

    @property
    def has_anchor(self) -> bool:
        """Whether the first task starts from a model that has learned something to be kept: its θ_o."""
        return len(self.given) > 1

    def past(self, stages: Sequence[Stage]) -> list[Stage]:
        """Those of ``stages`` that were trained in this stream, so that their tasks' data are known."""
        return list(stages[len(self.given) :])

    def train(
        self, tasks: Sequence[Task], method: "Method", start: Stage, past: Sequence[Stage] = (), label: str = ""
    ) -> Stage:
        """A training from ``start`` on one task, or several mixed; ``label`` defaults to the first task's name."""
        config = self._config
        train = config.train_of(tasks[0]) if len(tasks) == 1 else _train_of_all(config, tasks)
        return Training(
            label=label or tasks[0].name,
            method_name=method.name,
            start=start,
            tasks=tuple(tasks),
            data=[task.data_spec() for task in tasks],
            train=train,
            precision=precision(train),
            layout=config.model.layout,
            method=method,
            seed=config.seed,
            split=_split(train) if splits_matter(config) else None,
            past=tuple(past),
        )

    def merge(self, label: str, method_name: str, merger: "Method", parent: Stage, sources: Sequence[Stage]) -> Stage:
        """A merge by ``merger``, listed in results under ``label`` and ``method_name``."""
        seed = self._config.seed if merger.draws else None
        return Merge(
            label=label, method_name=method_name, before=parent, sources=tuple(sources), merger=merger, seed=seed
        )


def plan(config: "Config") -> list[Stage]:
    """The evaluated stages of a run, in order: the base, then those of its method. :func:`topological_order` adds the
    stages they depend on."""
    return config.method_settings.stages(Stream(config))


def topological_order(stages: Iterable[Stage]) -> list[Stage]:
    """``stages`` and all their dependencies, each once and after its own dependencies."""
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


def _given(config: "Config") -> list[Stage]:
    """See :attr:`Stream.given`."""
    if config.from_run is not None:
        from sfa.stages.kept import kept_stages

        return kept_stages(config.from_run)
    before = config.model.tuned_from
    start = config.model.model_copy(update={"base": None})
    return [_base(config, start)] if before is None else [_base(config, before), _base(config, start, TUNED)]


def _base(config: "Config", model: "Model", label: str = "base") -> Base:
    """A model that is not trained in the run. Random weights, adapters and a new head depend on the seed; weights in a
    folder are identified by content hash, those on the hub by commit."""
    files, commit = None, None
    if model.name is not None and Path(model.name).is_dir():
        files = model_identities(Path(model.name))
    elif model.name is not None:
        commit = hub.commit(model.name, model.revision)
    tokenizer_tasks = config.tokenizer_tasks()
    family = config.family()
    base = Base(
        label=label,
        model=model,
        files=files,
        commit=commit,
        tokenizer_tasks=tokenizer_tasks,
        tokenizer_data=[task.data_spec() for task in tokenizer_tasks] if model.tokenizer is not None else None,
        family=family,
        seed=config.seed if family.has_random_weights(model) else None,
    )
    whole = files is not None and model.lora is None  # adapters are loaded from the path of what they adapt
    return _as_made_before(base, config.save_folder) if whole else base


def _as_made_before(base: Base, save_folder: Path) -> Base:
    """``base`` under the path that it had when a stage of the same files was made, so that a model that was moved or
    copied is the same model. Its fingerprint holds the path, as it always has."""
    if runs.is_made(runs.stage_folder(save_folder, base.fingerprint)):
        return base
    for manifest in runs.manifests(save_folder):
        spec: Spec = {**manifest["spec"]}
        if manifest["parent"] is None and spec.get("files") == base.files:
            other = replace(base, model=base.model.model_copy(update={"name": spec["model"]["name"]}))
            if other.fingerprint == manifest["fingerprint"]:
                return other
    return base


def precision(train: "Train") -> str:
    """``fp32`` or ``amp_bf16``; ``auto`` is resolved for this machine."""
    if train.precision != "auto":
        return train.precision
    import torch

    return "amp_bf16" if torch.cuda.is_available() else "fp32"


def splits_matter(config: "Config") -> bool:
    """Whether weights depend on how a batch is split over ranks and microbatches, beyond rounding: each
    microbatch has its own dropout masks and normalization statistics."""
    if config.model.lora is not None and config.model.lora.dropout > 0:
        return True
    if config.model.name in UNSPLIT:
        return False
    from sfa.models.building import has_noise  # seconds to import

    return has_noise(config.model, config.family())


def _split(train: "Train") -> dict[str, int]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    each = train.global_batch_size // ranks
    return {"ranks": ranks, "microbatch_size": min(train.microbatch_size or each, each)}


def _train_of_all(config: "Config", tasks: Sequence[Task]) -> "Train":
    """Training settings for all tasks at once: epochs cover all rows, steps and tokens are summed over the tasks."""
    durations = [Duration.parse(config.train_of(task).max_duration) for task in tasks]
    unit = Duration.parse(config.train.max_duration).unit
    if unit == "ep" or any(duration.unit != unit for duration in durations):
        return config.train
    total = Duration(sum((duration.value for duration in durations), start=durations[0].value * 0), unit)
    return config.train.model_copy(update={"max_duration": str(total)})
