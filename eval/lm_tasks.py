"""Task files of lm-eval, made into tasks on this suite's rows."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from sfa.data import Row
from sfa.data.source import SourceError
from sfa.data.tokens import Encoder

logging.getLogger("lm_eval").setLevel(logging.ERROR)


def read_task(file: Path) -> dict[str, Any]:
    """A task file's settings.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return dict(load_yaml(file) | {"task": file.stem})
    except Exception as error:  # of YAML, or of what a function in it imports
        raise SourceError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def build_task(
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


def check_same(lm: TemplateLM, encoder: Encoder, task: ConfigurableTask, name: str) -> None:
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
