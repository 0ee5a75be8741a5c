"""Task files of lm-eval, ``eval/tasks/*.yaml``: each declares the evaluation of the same name. What a task declares
itself, such as an accuracy of choices, is scored by a file in ``eval/tasks/declared``."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eval import TASK_FILES
from eval.kind import RankResult, Settings, in_row_order, mean_score, with_counts
from eval.text import TextKind
from sfa.data import ImageTask, Row, Task
from sfa.data.template import Layout, Prompter
from sfa.records import Score

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


class LMEval(TextKind):
    """The mean of a task file's first metric over the rows of the task that owns it."""

    name: ClassVar[str] = "lm_eval"
    backends: ClassVar[tuple[str, ...]] = ("hf", "vllm")
    modules: ClassVar[tuple[str, ...]] = ("eval.lm", "eval.lm_tasks")

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        super().__init__(names, stream, settings)
        self.tasks: dict[str, ConfigurableTask] = {}
        self.layouts: dict[str, Layout] = {}

    @classmethod
    def owned(cls, stream: Sequence[Task]) -> list[str]:
        if stream and all(isinstance(task, ImageTask) for task in stream):
            return []
        files = sorted(file.stem for file in TASK_FILES.glob("*.yaml"))
        declared = [name for task in stream for name, kind in task.declared().items() if kind == cls.name]
        return list(dict.fromkeys([*files, *declared]))

    def key(self, name: str) -> str:
        """Hash of the task file and the code it refers to, the rows, their limit and the template."""
        file = self._file(name)
        text = file.read_text()
        text += "".join(file.with_name(f"{module}.py").read_text() for module in re.findall(r"!function (\w+)\.", text))
        return self.key_of(text, name)

    def load(self, name: str, model: Any, processor: Any) -> None:
        from eval.lm_tasks import build_task, read_task
        from sfa.data.tokens import Encoder

        file = self._file(name)
        self.set_rows(name, self.sources[name].eval_rows(name))
        config, layout = read_task(file) | {"task": name}, self.settings.layout
        template = (config.get("metadata") or {}).get("template")
        layout = replace(layout, template=template) if template else layout
        if processor is None:
            prompter = Prompter(layout, None)
            rendered = [prompter(row["prompt"]) for row in self.rows[name]]
        else:
            encoder = Encoder(processor, layout)
            prompter, rendered = encoder.prompter, encoder.render_prompts(self.rows[name], name)
        self.layouts[name] = layout
        self.tasks[name] = build_task(file, config, self.rows[name], rendered, prompter.separator)

    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        """The metrics of each row, in the order of the task file."""
        from eval.lm import LiveLM

        dtype = "bfloat16" if self.settings.bf16 else None
        batch_size = self.settings.batch_size
        lm = LiveLM(pretrained=model, tokenizer=processor, batch_size=batch_size, mixed_precision_dtype=dtype)
        return self._values(lm, rows)

    def drive(self, lm: Any, tokenizer: Any) -> dict[str, RankResult]:
        """See :meth:`Kind.drive`.

        Raises:
            SourceError: ``lm`` does not tokenize as training does.
        """
        return self._values(lm, {name: list(range(self.count(name))) for name in self.names})

    def _values(self, lm: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        from lm_eval.api.model import TemplateLM
        from lm_eval.evaluator import evaluate

        from eval.lm import LiveLM
        from eval.lm_tasks import check_same
        from sfa.data.tokens import Encoder

        values_by_name = {}
        for layout in dict.fromkeys(self.layouts[name] for name in rows):
            same_layout = {name: wanted for name, wanted in rows.items() if self.layouts[name] == layout}
            if isinstance(lm, LiveLM):
                lm.use(layout)
            elif isinstance(lm, TemplateLM):
                encoder = Encoder(lm.tokenizer, layout, lm.backend == "seq2seq")
                for name in same_layout:
                    check_same(lm, encoder, self.tasks[name], name)
            tasks = {"tasks": {name: self.tasks[name] for name in same_layout}}
            results = evaluate(lm, tasks, samples=same_layout, bootstrap_iters=0, verbosity="ERROR")
            for name, samples in results["samples"].items():
                first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
                values = np.array([[float(sample[metric]) for metric in self._metrics(name)] for sample in first])
                cut = sum(task == name for task, _ in lm.cut) if isinstance(lm, LiveLM) else 0
                values_by_name[name] = RankResult(values, 0, cut)
        return values_by_name

    def _file(self, name: str) -> Path:
        """The task file of an evaluation."""
        file = TASK_FILES / f"{name}.yaml"
        return file if file.is_file() else TASK_FILES / "declared" / f"{self.sources[name].task_file(name)}.yaml"

    def _metrics(self, name: str) -> list[str]:
        """The metrics of a task file; the first is the evaluation's score."""
        return [str(listed["metric"]) for listed in self.tasks[name].config.metric_list]

    def score(self, name: str, results: Sequence[RankResult]) -> Score:
        values = in_row_order(results)
        metric, *other_metrics = self._metrics(name)
        score = mean_score(name, metric, values[:, 0])
        if other_metrics:
            score["also"] = {metric_name: float(values[:, i].mean()) for i, metric_name in enumerate(other_metrics, 1)}
        majority = majority_share(self.rows[name])
        if majority is not None:
            score["majority"] = majority
        return with_counts(score, results)


def majority_share(rows: Sequence[Row]) -> float | None:
    """The share of the most common answer, if all rows have the same choices."""
    if len({tuple(row.get("choices", ())) for row in rows}) != 1 or "choices" not in rows[0]:
        return None
    return max(Counter(row["response"] for row in rows).values()) / len(rows)
