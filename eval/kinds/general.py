"""``general/<task>``: the prior suite, any task or group of lm-eval by its name, scored as lm-eval does."""

import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eval.kind import Kind, RankResult, Settings
from sfa.data import Task
from sfa.outcomes import pack
from sfa.records import GENERAL, Score
from sfa.store import fingerprint, identities

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from eval.general import Loaded


class General(Kind):
    """lm-eval's own prompts, examples, tokenization and metrics. A row is one of a task, or of the tasks of a group;
    of each task, at most ``limit`` rows count."""

    name: ClassVar[str] = "general"
    modules: ClassVar[tuple[str, ...]] = ("eval.lm", "eval.general")

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        super().__init__(names, stream, settings)
        self.loaded: dict[str, Loaded] = {}
        self.rows: dict[str, list[tuple[str, list[Instance]]]] = {}

    @classmethod
    def owned(cls, stream: Sequence[Task]) -> list[str]:
        return []

    @classmethod
    def owns(cls, name: str, stream: Sequence[Task]) -> bool:
        return name.startswith(GENERAL)

    def key(self, name: str) -> str:
        """Hash of the requests, which determine the responses, the rows, which hold the answers, and, of a folder of
        task files, the files."""
        self._build(name)
        contents = [
            [task, [[r.request_type, r.arguments] for r in requests], requests[0].doc]
            for task, requests in self.rows[name]
        ]
        folder = self.settings.task_folder
        files = identities(folder) if folder is not None else {}
        definitions = {file: digest for file, digest in files.items() if file.endswith((".yaml", ".py"))}
        version = importlib.metadata.version("lm-eval")
        text = json.dumps([name, contents], default=str, sort_keys=True)
        return fingerprint([text, version, definitions, self.settings.bf16])

    def load(self, name: str, model: Any, processor: Any) -> None:
        self._build(name)

    def _build(self, name: str) -> None:
        """Loads the task and builds its requests, once."""
        if name in self.rows:
            return
        from eval.general import build, load

        loaded = load(name.removeprefix(GENERAL), self.settings.task_folder)
        rows = []
        for title, task in loaded.tasks.items():
            rows += [(title, requests) for requests in build(task, self.settings.limit)]
        self.loaded[name], self.rows[name] = loaded, rows

    def count(self, name: str) -> int:
        return len(self.rows[name])

    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        """The number and the metrics of each row."""
        from eval.general import answer
        from eval.lm import PlainLM

        dtype = "bfloat16" if self.settings.bf16 else None
        lm = PlainLM(
            pretrained=model, tokenizer=processor, batch_size=self.settings.batch_size, mixed_precision_dtype=dtype
        )
        results = {}
        for name, wanted in rows.items():
            chosen = [self.rows[name][i] for i in wanted]
            measured = answer(lm, [self.loaded[name].tasks[title] for title, _ in chosen], [row for _, row in chosen])
            values = np.empty((len(wanted), 2), dtype=object)
            values[:, 0], values[:, 1] = wanted, measured
            results[name] = RankResult(values)
        return results

    def score(self, name: str, results: Sequence[RankResult]) -> Score:
        from eval.general import aggregate

        loaded = self.loaded[name]
        measured = dict(np.concatenate([result.values for result in results]))
        by_task: dict[str, list[Any]] = {title: [] for title in loaded.tasks}
        for number, (title, _) in enumerate(self.rows[name]):
            by_task[title].append(measured[number])
        scores, stderr = aggregate(loaded, by_task)
        (metric, value), *others = scores.items()
        score = Score(evaluation=name, metric=metric, value=value, stderr=stderr, n=len(measured))
        if others:
            score["also"] = dict(others)
        firsts = [next(iter(row.values())) for rows in by_task.values() for row in rows]
        if (outcomes := pack(firsts)) is not None:
            score["outcomes"] = outcomes
        first_task = next(iter(loaded.tasks.values()))
        if first_task.higher_is_better().get(metric.partition(",")[0]) is False:
            score["lower_is_better"] = True
        return score
