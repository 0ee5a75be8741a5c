"""Any hub or local data set, without code: a config names the columns in two templates."""

import string
from typing import Any

from pydantic import Field, model_validator

from sfa.data.source import SourcedTask, shuffled
from sfa.data.task import Row, Split


class Custom(SourcedTask):
    """``{name: mine, source: owner/name, prompt: "{question}", response: "{answer}"}``; scored by the loss on its
    held-out rows, or by the evaluations it names."""

    prompt: str = Field(description='template over the columns, like "Question: {question}"')
    response: str = Field(description='template over the columns, like "{answer}"')
    train_split: str = "train"
    test_split: str | None = Field(None, description="null: test or validation, or else one row in fifty")

    @model_validator(mode="before")
    @classmethod
    def _scored_by_loss(cls, options: Any) -> Any:
        return {"evals": [f"{options['name']}_loss"], **options} if "name" in options else options

    @model_validator(mode="after")
    def _templates(self) -> "Custom":
        for key in ("prompt", "response"):
            if not _columns(getattr(self, key)):
                raise ValueError(f"{key}: names no column; write one in braces, like {{question}}")
        return self

    def rows(self, split: Split) -> list[Row]:
        columns = list(dict.fromkeys(_columns(self.prompt) + _columns(self.response)))
        if split == "test" and self.test_split is not None:
            found = self.read(self.test_split, columns)
        elif split == "train" and (self.test_split is not None or self.train_split != "train"):
            found = self.read(self.train_split, columns)
        else:
            found = self.split_rows(split, columns)
        rows: list[Row] = [
            {"prompt": self.prompt.format_map(row), "response": self.response.format_map(row)} for row in found
        ]
        return shuffled(rows, self.limit if split == "train" else None)


def _columns(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]
