"""lm-eval on a live model: without leaving a trace in its training, and with the rows split over the ranks."""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from composer.utils import dist
from datasets import Dataset
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from eval import TASK_FILES
from eval.live import is_sharded, unsharded, untouched
from eval.lm import LiveLM
from eval.loss import row_losses
from sfa.callbacks import Score
from sfa.data import Row, Task, looking_in, owner
from sfa.data.packing import LongRows, none_fits
from sfa.data.source import SourceError, shuffled, usable
from sfa.data.template import DATE, Layout, Prompter, Template
from sfa.data.text_arrays import TextArrays
from sfa.data.tokens import Encoder
from sfa.families import family_of
from sfa.store import fingerprint

logging.getLogger("lm_eval").setLevel(logging.ERROR)


class Part(NamedTuple):
    """What one rank has scored: row by row the first metric, or summed loss and number of tokens; and how many rows
    were too long and left out, or cut."""

    values: NDArray[np.float64]
    dropped: int
    cut: int


class Harness:
    """The evaluations of a run. Each is a task file of lm-eval, or ``<task>_loss``, the loss on a task's held-out rows.
    Its rows are those of the stream's task that owns it, or else of the registered one.

    Args:
        names: of the evaluations.
        stream: tasks with options of their own.
        settings: how they are scored.
    """

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: "Settings"):
        self.names, self.settings = list(names), settings
        self.sources = {name: _source(name, stream, settings.data_folder) for name in self.names}
        self.rows: dict[str, list[Row]] = {}
        self.tasks: dict[str, ConfigurableTask] = {}
        self.layouts: dict[str, Layout] = {}
        self._keys: dict[str, str] = {}

    def key(self, name: str) -> str:
        """Hash of what determines the score of a given model, as it was when it was first asked for."""
        return self._keys.setdefault(name, self._keys.get(name) or self._key(name))

    def _key(self, name: str) -> str:
        """Hash of what determines the score of a given model: the task file and the code that it names, the rows and
        how many, the template."""
        file, settings = TASK_FILES / f"{name}.yaml", self.settings
        text = file.read_text() if file.is_file() else f"loss {settings.seq_len} {settings.long_rows}"
        text += "".join((TASK_FILES / f"{module}.py").read_text() for module in re.findall(r"!function (\w+)\.", text))
        more = [extras] if (extras := settings.layout.extras()) else []
        spec = self.sources[name].eval_spec(name)
        return fingerprint([text, spec, settings.template, settings.limit, settings.bf16, *more])

    def __call__(self, model: nn.Module, processor: Any, names: Sequence[str] | None = None) -> list[Score]:
        """Scores ``model`` (a ``transformers`` model, possibly under FSDP2) on ``names``, or on all evaluations. All
        ranks call it and receive the whole. Each scores every n-th row with the gathered weights, or, if these do not
        fit (``unshard: false``), all ranks score every row in lockstep."""
        names = self.names if names is None else list(names)
        for name in names:
            self._load(name, processor)
        split = self.settings.unshard or not is_sharded(model)
        rank, ranks = (dist.get_global_rank(), dist.get_world_size()) if split else (0, 1)
        mine = {name: list(range(len(self.rows[name])))[rank::ranks] for name in names}
        with untouched(model), unsharded(model) if split else contextlib.nullcontext():
            values = self._values(model, processor, {name: rows for name, rows in mine.items() if rows})
        gathered = dist.all_gather_object(values) if split else [values]
        return [self._score(name, [part[name] for part in gathered if name in part]) for name in names]

    def score(self, lm: LM, tokenizer: PreTrainedTokenizerBase) -> list[Score]:
        """Scores any model that lm-eval can drive, on the evaluations that are task files.

        Raises:
            SourceError: ``lm`` tokenizes for itself, and not as training does.
        """
        for name in self.names:
            self._load(name, tokenizer)
        values = self._lm_values(lm, {name: list(range(len(self.rows[name]))) for name in self.names})
        return [self._score(name, [values[name]]) for name in self.names]

    def _load(self, name: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if name in self.rows:
            return
        key = self.key(name)
        file = TASK_FILES / f"{name}.yaml"
        rows = self.sources[name].eval_rows(name) if file.is_file() else self.sources[name].rows("test")
        if self._key(name) != key:
            raise SourceError(f"the rows of {name} were changed while the run was going; start the command again")
        self.rows[name] = shuffled(usable(rows, name), self.settings.limit)
        if file.is_file():
            config = _read_task(file)
            layout = self._layout((config.get("metadata") or {}).get("template"))
            if tokenizer is None:
                prompter = Prompter(layout, None)
                shown = [prompter(row["prompt"]) for row in self.rows[name]]
            else:
                encoder = Encoder(tokenizer, layout)
                prompter, shown = encoder.shown, encoder.show(self.rows[name], name)
            self.layouts[name] = layout
            self.tasks[name] = _task(file, config, self.rows[name], shown, prompter.separator)

    def _layout(self, template: Template | None) -> Layout:
        return replace(self.settings.layout, template=template) if template else self.settings.layout

    def _values(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: dict[str, list[int]]
    ) -> dict[str, Part]:
        """Of each evaluation, row by row: its metrics, or summed loss and number of tokens."""
        settings = self.settings
        builder = family_of(model.config).array_builder(
            tokenizer, model.config, settings.layout, settings.seq_len, settings.long_rows
        )
        assert isinstance(builder, TextArrays), "only models of text are evaluated here"
        values = {}
        for name in rows.keys() - self.tasks.keys():
            part = [self.rows[name][i] for i in rows[name]]
            losses, cut = row_losses(model, builder, part, settings.batch_size, settings.bf16, name)
            values[name] = Part(losses, len(part) - len(losses), cut)
        wanted = {name: found for name, found in rows.items() if name in self.tasks}
        if wanted:
            dtype = "bfloat16" if settings.bf16 else None
            lm = LiveLM(
                pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size, mixed_precision_dtype=dtype
            )
            values |= self._lm_values(lm, wanted)
        return values

    def _lm_values(self, lm: LM, rows: dict[str, list[int]]) -> dict[str, Part]:
        found = {}
        for layout in dict.fromkeys(self.layouts[name] for name in rows):
            part = {name: wanted for name, wanted in rows.items() if self.layouts[name] == layout}
            if isinstance(lm, LiveLM):
                lm.use(layout)
            elif isinstance(lm, TemplateLM):
                encoder = Encoder(lm.tokenizer, layout, lm.backend == "seq2seq")
                for name in part:
                    _check_same(lm, encoder, self.tasks[name], name)
            tasks = {"tasks": {name: self.tasks[name] for name in part}}
            results = evaluate(lm, tasks, samples=part, bootstrap_iters=0, verbosity="ERROR")
            for name, samples in results["samples"].items():
                first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
                values = np.array([[float(sample[metric]) for metric in self._metrics(name)] for sample in first])
                cut = sum(task == name for task, _ in lm.cut) if isinstance(lm, LiveLM) else 0
                found[name] = Part(values, 0, cut)
        return found

    def _metrics(self, name: str) -> list[str]:
        """The metrics of a task file; the first is the evaluation's own."""
        return [str(listed["metric"]) for listed in self.tasks[name].config.metric_list]

    def _score(self, name: str, parts: list[Part]) -> Score:
        values = np.concatenate([part.values for part in parts])
        n, counts = len(values), {"dropped": sum(p.dropped for p in parts), "cut": sum(p.cut for p in parts)}
        more: dict[str, float] = {what: count for what, count in counts.items() if count}
        if not n:
            raise none_fits(name, self.settings.seq_len)
        if name not in self.tasks:  # a ratio of sums; its standard error by the delta method
            loss = float(values[:, 0].sum() / values[:, 1].sum())
            spread = ((values[:, 0] - loss * values[:, 1]) ** 2).sum() * n / max(n - 1, 1)
            ratio_stderr = float(np.sqrt(spread) / values[:, 1].sum())
            return cast(Score, {**Score(task=name, metric="loss", value=loss, stderr=ratio_stderr, n=n), **more})
        metric, *others = self._metrics(name)
        stderr = float(values[:, 0].std(ddof=1) / np.sqrt(n)) if n > 1 else None
        score = Score(task=name, metric=metric, value=float(values[:, 0].mean()), stderr=stderr, n=n)
        if others:
            score["also"] = {other: float(values[:, i].mean()) for i, other in enumerate(others, 1)}
        majority = _majority(self.rows[name])
        if majority is not None:
            score["majority"] = majority
        return cast(Score, {**score, **more})


@dataclass(frozen=True)
class Settings:
    """How evaluations are scored.

    Attributes:
        template: how a prompt is shown to the model.
        seq_len: tokens of the longest row of which a loss is taken.
        limit: rows of each evaluation, the first after a seeded shuffle; all of them if ``None``.
        batch_size: rows at once.
        bf16: compute in bfloat16.
        unshard: gather the weights of a sharded model for the evaluation.
        data_folder: local copies of hub data sets.
        system: see :class:`sfa.data.template.Layout`.
        date: likewise.
        long_rows: what is done with longer rows, as in training.
    """

    template: Template = "plain"
    seq_len: int = 1024
    limit: int | None = None
    batch_size: int = 32
    bf16: bool = False
    unshard: bool = True
    data_folder: Path | None = None
    system: str | None = None
    date: date = DATE
    long_rows: LongRows = "drop"

    @property
    def layout(self) -> Layout:
        return Layout(self.template, self.system, self.date)


def _source(name: str, stream: Sequence[Task], data_folder: Path | None) -> Task:
    """The task that gives an evaluation its rows: of this stream, or else the registered one with default options.

    Raises:
        KeyError: no task owns the evaluation.
    """
    kind = owner(name)
    mine = next((task for task in stream if type(task) is kind or f"{task.name}_loss" == name), None)
    if mine is not None:
        return mine
    if kind is None:
        raise KeyError(f"no task has the evaluation {name}")
    return kind.model_validate({}, context=looking_in(data_folder))


def _read_task(file: Path) -> dict[str, Any]:
    """A task file's settings.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return dict(load_yaml(file) | {"task": file.stem})
    except Exception as error:  # of YAML, or of what a function in it imports
        raise SourceError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _task(
    file: Path, config: dict[str, Any], rows: Sequence[Row], shown: Sequence[str], separator: str
) -> ConfigurableTask:
    """A task of lm-eval on ``rows``: columns ``prompt``, as it is shown, ``response`` and, where the rows have them,
    ``choices`` and the index ``answer``. A file that names columns is much faster than one with templates, which
    lm-eval compiles again for every row.

    Raises:
        SourceError: the file asks for a column that the rows do not have, or is none that lm-eval takes; or a row's
            response is none of its choices.
    """
    docs: list[dict[str, Any]] = [{**row, "prompt": prompt} for row, prompt in zip(rows, shown, strict=True)]
    for doc in docs:
        if "choices" in doc and doc["response"] not in doc["choices"]:
            raise SourceError(f"{file.stem}: the response {doc['response']!r} is none of the choices {doc['choices']}")
        if "choices" in doc:
            doc["answer"] = doc["choices"].index(doc["response"])
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        column = config.get(key)
        if isinstance(column, str) and column.isidentifier() and any(column not in doc for doc in docs):
            raise SourceError(
                f"{file}: {key} asks for the column {column}, and the rows of {file.stem} have {', '.join(docs[0])}; "
                "arithmetic.yaml beside it is for rows without choices, licences.yaml for rows with them"
            )
    data = Dataset.from_list(docs)
    config |= {"custom_dataset": lambda **_: {"test": data}, "test_split": "test", "target_delimiter": separator}
    try:
        return _Task(config=config)
    except Exception as error:  # lm-eval checks a file by using it
        raise SourceError(f"{file} is no task of lm-eval: {' '.join(str(error).split())}") from error


class _Task(ConfigurableTask):
    """A task of lm-eval that makes its requests without a progress bar, which nothing turns off."""

    def build_all_requests(
        self, *, samples: list[int] | None = None, rank: int = 0, world_size: int = 1, **_: Any
    ) -> None:
        self._instances = [
            request
            for number, doc in self.doc_iterator(rank=rank, samples=samples, world_size=world_size)
            for request in self._requests(number, doc)
        ]

    def _requests(self, number: int, doc: dict[str, Any]) -> list[Any]:
        shown = self.fewshot_context(doc, num_fewshot=self.config.num_fewshot or 0, gen_prefix=self.doc_to_prefix(doc))
        about = (self.config.task, number, self.config.repeats)
        made = self.construct_requests(doc=doc, ctx=shown, metadata=about, apply_chat_template=False)
        return made if isinstance(made, list) else [made]


def _check_same(lm: TemplateLM, encoder: Encoder, task: ConfigurableTask, name: str) -> None:
    """Compares the ids that ``lm`` would give a task's texts with those of training.

    Raises:
        SourceError: they differ; names the first row.
    """
    for number, doc in enumerate(task.dataset["test"]):
        prompt, choices = doc["prompt"], doc.get("choices") or []
        texts = [f"{encoder.shown.separator}{choice}" for choice in choices]
        ours = encoder.joined([prompt] * len(texts), texts, lambda at: name) if texts else encoder.prompts([prompt])
        theirs = [lm._encode_pair(prompt, text) for text in texts] if texts else [list(lm.tok_encode(prompt))]
        if [tuple(one) for one in ours] != [tuple(one) for one in theirs]:
            raise SourceError(
                f"{name}: row {number}: {type(lm).__name__} tokenizes it in another way than training does, so its "
                "scores would not be those of the trained model; the backend hf tokenizes as training does"
            )


def _majority(rows: Sequence[Row]) -> float | None:
    """The share of the commonest answer, if all rows offer the same choices."""
    if len({tuple(row.get("choices", ())) for row in rows}) != 1 or "choices" not in rows[0]:
        return None
    return max(Counter(row["response"] for row in rows).values()) / len(rows)
