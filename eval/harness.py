"""lm-eval on a live model: without leaving a trace in its training, and with the rows split over the ranks."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from composer.utils import dist, reproducibility
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from eval import TASK_FILES
from sfa.callbacks import Score
from sfa.config import Config
from sfa.data import TASKS, Task
from sfa.store import fingerprint

logging.getLogger("lm_eval").setLevel(logging.ERROR)


class Harness:
    """The evaluations of a run. Each is a task file of lm-eval; its rows are the held-out rows of the stream's task
    that names it, or those of the data set that the file names.

    Args:
        config: of the run; its ``eval`` block says which evaluations, how many rows and the batch size.
    """

    def __init__(self, config: Config):
        self.names = config.evaluations()
        self.limit, self.batch_size = config.eval.limit, config.eval.batch_size
        self.sources = {name: _owner(name, config.tasks) for name in self.names}
        self.tasks: dict[str, ConfigurableTask] = {}

    def key(self, name: str) -> str:
        """Hash of what determines the score of a given model: the task file, the rows and how many of them."""
        source = self.sources[name]
        text = (TASK_FILES / f"{name}.yaml").read_text()
        return fingerprint([text, source.data_spec() if source else None, self.limit])

    def __call__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, names: Sequence[str] | None = None
    ) -> list[Score]:
        """Scores ``model`` (a ``transformers`` model, possibly under FSDP2) on ``names``, or on all evaluations. All
        ranks call it; each scores every n-th row, and all receive the whole."""
        names = self.names if names is None else list(names)
        for name in names:
            if name not in self.tasks:
                self.tasks[name] = _load(name, self.sources[name])
        rank, ranks = dist.get_global_rank(), dist.get_world_size()
        mine = {name: list(range(self._rows(name)))[rank::ranks] for name in names}
        with untouched(model), unsharded(model):
            values = self._values(model, tokenizer, {name: rows for name, rows in mine.items() if rows})
        gathered = dist.all_gather_object(values)
        return [self._score(name, [part[name] for part in gathered if name in part]) for name in names]

    def _rows(self, name: str) -> int:
        rows = len(self.tasks[name].eval_docs)
        return min(rows, self.limit) if self.limit else rows

    def _values(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: dict[str, list[int]]
    ) -> dict[str, list[float]]:
        """The first metric of each task, row by row."""
        if not rows:
            return {}
        lm = _Quiet(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)
        tasks = {"tasks": {name: self.tasks[name] for name in rows}}
        results = evaluate(lm, tasks, samples=rows, bootstrap_iters=0, verbosity="ERROR")
        return {
            name: [float(sample[self._metric(name)]) for sample in samples if sample["filter"] == samples[0]["filter"]]
            for name, samples in results["samples"].items()
        }

    def _metric(self, name: str) -> str:
        return str(self.tasks[name].config.metric_list[0]["metric"])

    def _score(self, name: str, parts: list[list[float]]) -> Score:
        values = np.concatenate(parts)
        stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
        return Score(task=name, metric=self._metric(name), value=float(values.mean()), stderr=stderr, n=len(values))


def _owner(name: str, stream: Sequence[Task]) -> Task | None:
    """The task that an evaluation belongs to: of this stream, or else of those registered, with default options."""
    mine = next((task for task in stream if name in task.evals), None)
    return mine or next((kind() for kind in TASKS.values() if name in kind.evals), None)


def _load(name: str, source: Task | None) -> ConfigurableTask:
    """A task of lm-eval on the held-out rows of ``source``: columns ``prompt``, ``response`` and, where the rows have
    them, ``choices`` and the index ``answer``. A file that names columns is much faster than one with templates,
    which lm-eval compiles again for every row."""
    config: dict[str, Any] = load_yaml(TASK_FILES / f"{name}.yaml")
    if source is not None:
        rows: list[dict[str, Any]] = [dict(row) for row in source.rows("test")]
        for row in rows:
            if "choices" in row:
                row["answer"] = row["choices"].index(row["response"])
        data = Dataset.from_list(rows)
        config |= {"custom_dataset": lambda **_: {"test": data}, "test_split": "test"}
    return ConfigurableTask(config=config)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts back each module's training mode and all random states: lm-eval changes both."""
    modes = {module: module.training for module in model.modules()}
    states = reproducibility.get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        reproducibility.load_rng_state(states)


@contextlib.contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gathers FSDP2's parameters, in its compute precision, and keeps them while inside. Forward passes then need no
    communication, so ranks may do different numbers of them."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # torch 2.7 has no public way to stop a module from dropping its gathered parameters after a forward pass.
    groups = [group for m in modules if (group := m._get_fsdp_state()._fsdp_param_group) is not None]
    after_forward = [group.post_forward_mesh_info for group in groups]
    for group in groups:
        group.post_forward_mesh_info = None
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for group, info in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = info
        for module in modules:
            module.reshard()


class _Quiet(HFLM):
    """Without lm-eval's own progress bars."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return list(super().generate_until(requests, disable_tqdm=True))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        return list(super().loglikelihood_rolling(requests, disable_tqdm=True))
