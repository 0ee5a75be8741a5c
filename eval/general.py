"""Tasks of lm-eval by name, for the prior suite: what lm-eval itself defines, loaded from its cache or a folder."""

import difflib
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator_utils import _process_results
from lm_eval.tasks import TaskManager

from eval.lm_tasks import requests
from sfa.data.source import SourceError, shuffled
from sfa.errors import one_line

logging.getLogger("lm_eval").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Loaded:
    """A task or group of lm-eval.

    Attributes:
        name: its name.
        tasks: the task, or the tasks of the group.
        groups: the group and those in it.
    """

    name: str
    tasks: dict[str, Task]
    groups: dict[str, Group]


@functools.cache
def load(name: str, folder: Path | None = None) -> Loaded:
    """A task or group of the installed lm-eval, with its rows, or one of a folder of task files.

    Raises:
        SourceError: there is none of this name, it has no score of its own, it needs pictures or runs what the model
            writes, or its rows are neither in the cache nor available from the hub.
    """
    manager = _holding(name, folder)
    try:
        found = manager.load([name])
    except Exception as error:  # from YAML, from imports of what a task needs, or from loading its rows
        raise SourceError(f"{name} cannot be loaded: {one_line(error)}") from error
    tasks, groups = found["tasks"], found.get("groups", {})
    if name not in tasks and not (name in groups and groups[name].has_aggregation):
        children = found.get("group_map", {}).get(name) or list(tasks)
        raise SourceError(f"{name} stands for several tasks and has no score; name them: {', '.join(children)}")
    for task in tasks.values():
        if getattr(task, "UNSAFE_CODE", False):
            raise SourceError(f"{name} runs what the model writes outside of the sandbox of this suite")
        if getattr(task, "MULTIMODAL", False):
            raise SourceError(f"{name} needs a model of pictures")
    return Loaded(name, tasks, groups)


def _holding(name: str, folder: Path | None) -> TaskManager:
    """The index that holds a name: the folder's if it does, as the installed one takes seconds to read."""
    if folder is not None and name in _index(folder, False).all_tasks:
        return _index(folder, False)
    index = _index(folder, True)
    if name not in index.all_tasks:
        near = difflib.get_close_matches(name, index.all_tasks, 1, 0.5)
        raise SourceError(f"{name!r} is not a task of lm-eval" + (f"; did you mean {near[0]}?" if near else ""))
    return index


@functools.cache
def _index(folder: Path | None, defaults: bool) -> TaskManager:
    return TaskManager(include_path=folder, include_defaults=defaults)


def build(task: Task, limit: int | None) -> list[list[Instance]]:
    """The requests of each row of a task, or of ``limit`` rows drawn with a seed; with the examples before a row that
    lm-eval's command line draws by default."""
    docs = list(task.eval_docs)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return [requests(task, number, docs[number]) for number in sorted(shuffled(range(len(docs)), limit))]


def answer(lm: LM, tasks: Sequence[Task], wanted: Sequence[Sequence[Instance]]) -> list[dict[tuple[str, str], Any]]:
    """The metrics of rows, from a model's responses to their requests.

    Args:
        lm: the model.
        tasks: the task of each row.
        wanted: the requests of each row.

    Returns:
        A mapping for each row, from a metric and the filter of responses that it is of to its value.
    """
    fresh = [[replace(request, resps=[], filtered_resps={}) for request in row] for row in wanted]
    by_kind: dict[str, list[Instance]] = defaultdict(list)
    for request in (request for row in fresh for request in row):
        by_kind[request.request_type] += [request] * (request.repeats or 1)
    for kind, repeated in by_kind.items():
        respond: Callable[[list[Instance]], list[Any]] = getattr(lm, kind)
        for request, response in zip(repeated, respond(repeated), strict=True):
            request.resps.append(response)
    measured = []
    for task, row in zip(tasks, fresh, strict=True):
        for ensemble in task._filters:
            ensemble.apply(row)
        values: dict[tuple[str, str], Any] = {}
        for name in row[0].filtered_resps:
            results = task.process_results(row[0].doc, [request.filtered_resps[name] for request in row])
            values |= {(metric, name): value for metric, value in results.items()}
        measured.append(values)
    return measured


def aggregate(
    loaded: Loaded, rows: dict[str, list[dict[tuple[str, str], Any]]]
) -> tuple[dict[str, float], float | None]:
    """The metrics of a task or group as lm-eval reports them, by name, the first being its score; and the standard
    error of the first, which lm-eval computes of means.

    Args:
        loaded: the task or group.
        rows: the metrics of the rows of each of its tasks.
    """
    gathered: dict[str, Any] = {}
    all_means = True
    for name, task in loaded.tasks.items():
        metrics: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in rows[name]:
            for metric, value in row.items():
                metrics[metric].append(value)
        functions = task.aggregation()
        all_means &= all(functions.get(metric, mean) is mean for metric, _ in metrics)
        gathered[name] = {"task": task, "raw_metrics": metrics, "logged_samples": []}
    results = _process_results(gathered, loaded.groups, bootstrap_iters=int(all_means)).metrics[loaded.name]
    values = {key: value for key, value in results.items() if "," in key and isinstance(value, float | int)}
    scores = {key: float(value) for key, value in values.items() if "_stderr," not in key}
    first = next(iter(scores))
    metric, _, name_of_filter = first.partition(",")
    stderr = values.get(f"{metric}_stderr,{name_of_filter}")
    return {_plain(key, scores): value for key, value in scores.items()}, None if stderr is None else float(stderr)


def _plain(key: str, keys: dict[str, float]) -> str:
    """A metric without its filter, if it has one filter only."""
    metric = key.partition(",")[0]
    return metric if sum(other.partition(",")[0] == metric for other in keys) == 1 else key
