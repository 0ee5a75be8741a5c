"""Any hub or local data set, without code: a config refers to the columns in two templates, and may list the labels."""

import datetime
import decimal
import json
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sfa.data.formats import SourceRow, Written
from sfa.data.source import SourceError, class_names
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import Row, Split
from sfa.values import Spec

Metric = Literal["exact_match", "label_match", "first_letter", "rouge_l", "similarity", "sari"]


class Custom(SourcedTask):
    """``{name: mine, source: owner/name, prompt: "{question}", response: "{answer}"}``; scored by the loss on its
    held-out rows, by how often the likeliest of its ``choices`` is the response, by a ``metric`` of what the model
    writes, or by the evaluations it names. ``{name: mine, source: owner/name, label: topic, choices: [World, Sports]}``
    is a data set with class labels."""

    prompt: str = Field(description='template over the columns, like "Question: {question}"; with label, {text}')
    response: str = Field(description='template over the columns, like "{answer}"; with label, the label\'s choice')
    label: str | None = Field(None, description="column of a class label: one of choices, or its place in the list")
    train_split: str = "train"
    test_split: str | None = Field(None, description="null: test or validation, or else one row in fifty")
    choices: list[str] | dict[str, str] | None = Field(
        None, description="the possible responses; a mapping gives the text that each is written as"
    )

    metric: Metric | None = Field(None, description="scores what the model writes; null: by choices, or the loss")

    @model_validator(mode="before")
    @classmethod
    def _scored_by_default(cls, options: Any) -> Any:
        if isinstance(options.get("label"), str):
            if "response" in options:
                raise ValueError("label: the response is the label's choice: leave response out")
            options = {"prompt": "{text}", "response": f"{{{options['label']}}}", **options}
        if "name" not in options:
            return options
        declared = cls.declares(options["name"], bool(options.get("choices")), options.get("metric"))
        return {"evals": [*declared][-1:], **options}

    @classmethod
    def declares(cls, name: str, choices: bool = False, metric: str | None = None) -> dict[str, str]:
        names = [*(["accuracy"] if choices else []), *([metric] if metric else [])]
        return super().declares(name) | {f"{name}_{ending}": "lm_eval" for ending in names}

    def declared(self) -> dict[str, str]:
        return self.declares(self.name, self.choices is not None, self.metric)

    def task_file(self, evaluation: str) -> str:
        return self.metric if self.metric and evaluation == f"{self.name}_{self.metric}" else "choices"

    def data_spec(self) -> Spec:
        """Without choices and label as before there were any, so that finished stages remain valid; the metric
        determines no row."""
        spec = super().data_spec()
        del spec["metric"]
        return {key: value for key, value in spec.items() if key not in ("choices", "label") or value is not None}

    @field_validator("choices", mode="before")
    @classmethod
    def _as_text(cls, choices: Any) -> Any:
        """Numbers as a template writes them, so that ``[1, 2, 3]`` are choices, too. Truth values remain an error: YAML
        reads ``[no, yes]`` as two."""

        def text(value: Any) -> Any:
            return as_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

        if isinstance(choices, Mapping):
            return {str(label): text(value) for label, value in choices.items()}
        return [text(choice) for choice in choices] if isinstance(choices, list | tuple) else choices

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: list[str] | dict[str, str] | None) -> list[str] | dict[str, str] | None:
        if choices is None:
            return None
        texts = list(choices.values() if isinstance(choices, dict) else choices)
        if len(texts) < 2 or len({*texts}) < len(texts) or "" in texts:
            raise ValueError("must be two or more different texts, none of them empty")
        return choices

    @model_validator(mode="after")
    def _templates(self) -> "Custom":
        if self.label is not None and self.choices is None:
            raise ValueError("choices: is required with label: the text of each class")
        for key in ("prompt", "response"):
            try:
                fields = _fields(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            if not any(column for _, column in fields):
                raise ValueError(f"{key}: contains no column; write one in braces, like {{question}}")
        if self.test_split == self.train_split and not self.evaluate_only:
            raise ValueError(f"test_split: {self.test_split} is the split that the task is trained on")
        return self

    def rows(self, split: Split) -> list[Row]:
        prompt, response = _fields(self.prompt), _fields(self.response)
        names = self._class_names(split)
        columns = list(dict.fromkeys(column for _, column in [*prompt, *response] if column))

        def examples(row: SourceRow) -> list[Row]:
            texts = {}
            for column, value in row.items():
                try:
                    texts[column] = as_text(value)
                except (ValueError, RecursionError) as error:
                    raise SourceError(f"{self.source}: the column {column} holds {error}") from error
            return [self._example(_fill(prompt, texts), _fill(response, texts), names)]

        return self.split_rows(split, columns, examples, self.train_split, self.test_split)

    def _example(self, prompt: str, response: str, names: Sequence[str]) -> Row:
        if self.choices is None:
            return {"prompt": prompt, "response": response}
        written = self.choices if isinstance(self.choices, dict) else {choice: choice for choice in self.choices}
        places = {str(i): written[name] for i, name in enumerate(names) if name in written}
        if written.keys().isdisjoint(places):  # a label that is itself such a number is never meant by its place
            written = {**places, **written}
        if response in ("true", "false") and response not in written:
            response = response.capitalize()  # YAML's keys true and false, as Python writes them
        if response not in written:
            allowed = ", ".join(written)
            raise SourceError(
                f"{self.source}: the {'label' if self.label else 'response'} {response[:80]!r} is not one of "
                f"{self.name}'s choices ({allowed[:200]})"
            )
        return {"prompt": prompt, "response": written[response], "choices": [*dict.fromkeys(written.values())]}

    def _class_names(self, split: Split) -> list[str]:
        """What a label that is a number stands for, by its place: the choices, or, of a mapping, the names that the
        data set gives; empty without a label.

        Raises:
            SourceError: the data set gives the choices' names in another order.
        """
        if self.label is None or self.choices is None:
            return []
        test = self.test_split or self.held_out_split()
        given = class_names(self._source, test if test and split == "test" else self.train_split, self.label)
        if isinstance(self.choices, dict):
            return given
        named = {*given} & {*self.choices}
        if named and any(name != choice for name, choice in zip(given, self.choices, strict=False)):
            raise SourceError(f"{self.source}: {self.label} numbers the classes {given}: list choices in this order")
        return self.choices


def as_text(value: Any) -> str:
    """A value as text for a template: text unchanged, everything else as JSON, with numbers as written in their file
    and dates in ISO 8601.

    Raises:
        ValueError: it has no text form, such as bytes.
    """
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    match value:
        case None | bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case Written():
            return repr(value)
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case decimal.Decimal() if value.is_finite():
            return f"{value:f}"
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case Mapping():
            return "{" + ", ".join(f"{_json(str(key))}: {_json(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_json(item) for item in value) + "]"
    raise ValueError(f"{type(value).__name__}, which is neither text nor representable in JSON")


def _fill(fields: list[tuple[str, str | None]], texts: Mapping[str, str]) -> str:
    return "".join(literal + (texts[column] if column else "") for literal, column in fields)


def _fields(template: str) -> list[tuple[str, str | None]]:
    """The literal texts of a template, each with the column that follows it.

    Raises:
        ValueError: a brace is unbalanced, or the text in braces is not a plain name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error} in {template!r}; double a brace to write it literally") from error
    for _, column, form, conversion in parsed:
        if column is not None and (not column or form or conversion or "[" in column):
            placeholder = f"{{{column}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
            raise ValueError(f"{placeholder} is not a column name; double a brace to write it literally")
    return [(literal, column) for literal, column, _, _ in parsed]
