"""Builds lm-eval tasks on this suite's rows from task files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.api.task import Task as LMEvalTask
from lm_eval.tasks._yaml_loader import load_yaml

from sfa.data import Row
from sfa.data.source import SourceError
from sfa.data.tokens import Encoder
from sfa.errors import one_line

logging.getLogger("lm_eval").setLevel(logging.ERROR)


def read_task(file: Path) -> dict[str, Any]:
    """A task file's settings.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return dict(load_yaml(file) | {"task": file.stem})
    except Exception as error:  # from YAML, or from imports of a function in it
        raise SourceError(f"{file} cannot be read: {one_line(error)}") from error


def build_task(
    file: Path, config: dict[str, Any], rows: Sequence[Row], rendered: Sequence[str], separator: str
) -> ConfigurableTask:
    """An lm-eval task on ``rows``: columns ``prompt``, as rendered, ``response`` and, if the rows have them,
    ``choices`` and the index ``answer``. Column names in a file are much faster than templates, which lm-eval compiles
    again for every row.

    Raises:
        SourceError: the file refers to a column that the rows do not have, or is not accepted by lm-eval; or a row's
            response is not among its choices.
    """
    docs: list[dict[str, Any]] = [{**row, "prompt": prompt} for row, prompt in zip(rows, rendered, strict=True)]
    for doc in docs:
        if "choices" in doc and doc["response"] not in doc["choices"]:
            problem = f"the response {doc['response']!r} is not among the choices {doc['choices']}"
            raise SourceError(f"{config['task']}: {problem}")
        if "choices" in doc:
            doc["answer"] = doc["choices"].index(doc["response"])
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        column = config.get(key)
        if isinstance(column, str) and column.isidentifier() and any(column not in doc for doc in docs):
            raise SourceError(
                f"{file}: {key} refers to the column {column}, but the rows of {config['task']} have "
                f"{', '.join(docs[0])}; see arithmetic.yaml for rows without choices, licences.yaml for rows with them"
            )
    data = Dataset.from_list(docs)
    config |= {"custom_dataset": lambda **_: {"test": data}, "test_split": "test", "target_delimiter": separator}
    try:
        return _Task(config=config)
    except Exception as error:  # lm-eval checks a file by using it
        raise SourceError(f"{file} is not an lm-eval task: {one_line(error)}") from error


class _Task(ConfigurableTask):
    """An lm-eval task that builds its requests without the progress bar, which no option disables."""

    def build_all_requests(
        self, *, samples: list[int] | None = None, rank: int = 0, world_size: int = 1, **_: Any
    ) -> None:
        self._instances = [
            request
            for number, doc in self.doc_iterator(rank=rank, samples=samples, world_size=world_size)
            for request in requests(self, number, doc)
        ]


def requests(task: LMEvalTask, number: int, doc: dict[str, Any]) -> list[Instance]:
    """The requests of one row of a task."""
    context = task.fewshot_context(doc, num_fewshot=task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc))
    about = (task.config.task, number, task.config.repeats)
    built = task.construct_requests(doc=doc, ctx=context, metadata=about, apply_chat_template=False)
    return built if isinstance(built, list) else [built]


def check_same(lm: TemplateLM, encoder: Encoder, task: ConfigurableTask, name: str) -> None:
    """Checks that ``lm`` tokenizes a task's texts as training does.

    Raises:
        SourceError: it does not; names the first such row.
    """
    for number, doc in enumerate(task.dataset["test"]):
        prompt, choices = doc["prompt"], doc.get("choices") or []
        texts = [f"{encoder.prompter.separator}{choice}" for choice in choices]
        ours = (
            encoder.encode_pairs([prompt] * len(texts), texts, lambda at: name)
            if texts
            else encoder.encode_prompts([prompt])
        )
        theirs = [lm._encode_pair(prompt, text) for text in texts] if texts else [list(lm.tok_encode(prompt))]
        if [tuple(ids) for ids in ours] != [tuple(ids) for ids in theirs]:
            raise SourceError(
                f"{name}: row {number}: {type(lm).__name__} tokenizes it differently from training, so its "
                "scores would not be those of the trained model; the backend hf tokenizes as training does"
            )
