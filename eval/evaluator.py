"""A run's evaluations of all kinds on a live model: without side effects on its training, and with the rows split over
the ranks."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from composer.utils import dist
from torch import nn

from eval import owner
from eval.kind import Kind, RankResult, Settings
from eval.live import is_sharded, unsharded, untouched
from sfa.config.schema import Config
from sfa.data import Task
from sfa.data.source import SourceError
from sfa.records import Score
from sfa.stages.callbacks import Evaluator


def evaluator(config: Config) -> Evaluator:
    """The evaluator of a config's evaluations."""
    return Evaluations([*config.evaluations(), *config.general_evaluations()], config.tasks, settings_of(config))


def settings_of(config: Config) -> Settings:
    """How a config's evaluations are scored."""
    train = config.train
    return Settings(
        template=config.model.template,
        seq_len=train.seq_len,
        long_rows=train.long_rows,
        limit=config.eval.limit,
        batch_size=config.eval.batch_size,
        bf16=train.precision == "amp_bf16" or (train.precision == "auto" and torch.cuda.is_available()),
        unshard=config.eval.unshard,
        data_folder=config.data_folder,
        system=config.model.system,
        date=config.model.date,
        cache=config.save_folder / "data",
        task_folder=config.eval.task_folder,
    )


class Evaluations:
    """Implements :class:`sfa.stages.callbacks.Evaluator`.

    Args:
        names: names of the evaluations.
        stream: the run's tasks, with their options.
        settings: how they are scored.

    Attributes:
        kinds: the kind that scores each evaluation.
    """

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        self.names, self.stream, self.settings = list(names), list(stream), settings
        owners = {name: self._owner(name) for name in self.names}
        kinds = {
            kind: kind([name for name in self.names if owners[name] is kind], stream, settings)
            for kind in dict.fromkeys(owners.values())
        }
        self.kinds: dict[str, Kind] = {name: kinds[owners[name]] for name in self.names}
        self._keys: dict[str, str] = {}
        self._loaded: set[str] = set()

    def key(self, name: str) -> str:
        """Hash of what determines a model's score, as of the first call."""
        if name not in self._keys:
            self._keys[name] = self.kinds[name].key(name)
        return self._keys[name]

    def lower_is_better(self, name: str) -> bool:
        """Whether lower scores of an evaluation are better, even if this run does not use it."""
        kind = owner(name, self.stream)
        return kind is not None and kind.lower_is_better

    def __call__(self, model: nn.Module, processor: Any, names: Sequence[str] | None = None) -> list[Score]:
        """Scores ``model`` (a ``transformers`` model, possibly under FSDP2) on ``names``, or on all evaluations. Must
        be called on all ranks, which all receive all scores. Each rank scores every n-th row with the gathered weights,
        or, if these do not fit (``unshard: false``), all ranks score every row in lockstep."""
        names = self.names if names is None else list(names)
        for name in names:
            self.load(name, model, processor)
        split = self.settings.unshard or not is_sharded(model)
        rank, ranks = (dist.get_global_rank(), dist.get_world_size()) if split else (0, 1)
        rank_rows = {name: list(range(self.kinds[name].count(name)))[rank::ranks] for name in names}
        rank_rows = {name: rows for name, rows in rank_rows.items() if rows}
        with untouched(model), unsharded(model) if split else contextlib.nullcontext():
            measured = [
                kind.measure(model, processor, {n: rows for n, rows in rank_rows.items() if self.kinds[n] is kind})
                for kind in dict.fromkeys(self.kinds[name] for name in rank_rows)
            ]
        results = {name: result for by_name in measured for name, result in by_name.items()}
        gathered = dist.all_gather_object(results) if split else [results]
        return [self._score(name, [by_rank[name] for by_rank in gathered if name in by_rank]) for name in names]

    def drive(self, lm: Any, tokenizer: Any) -> list[Score]:
        """Scores a model of another backend on all evaluations, in one process."""
        for name in self.names:
            self.load(name, None, tokenizer)
        results = {
            name: result
            for kind in dict.fromkeys(self.kinds.values())
            for name, result in kind.drive(lm, tokenizer).items()
        }
        return [self._score(name, [results[name]]) for name in self.names]

    def load(self, name: str, model: Any, processor: Any) -> None:
        """Reads the rows of an evaluation, once.

        Raises:
            SourceError: they have changed since its key was computed.
        """
        if name in self._loaded:
            return
        kind, key = self.kinds[name], self.key(name)
        kind.load(name, model, processor)
        if kind.key(name) != key:
            raise SourceError(f"the {kind.unit} of {name} changed during the run; start the command again")
        self._loaded.add(name)

    def _score(self, name: str, results: Sequence[RankResult]) -> Score:
        kind = self.kinds[name]
        score = kind.score(name, results)
        if kind.lower_is_better:
            score["lower_is_better"] = True
        return score

    def _owner(self, name: str) -> type[Kind]:
        kind = owner(name, self.stream)
        if kind is None:
            raise KeyError(f"no kind of evaluation owns {name}")
        return kind
