"""The six language generation tasks of Scialom et al. (2022) that the paper's T0 models learn in a stream (A.6)."""

import collections
import re
from abc import abstractmethod
from typing import Any

from pydantic import Field

from sfa.data.formats import SourceRow
from sfa.data.source import SourceError
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import Row, Split

PARQUET = "refs/convert/parquet"  # the hub's conversion of script data sets


class Instruction(SourcedTask):
    """A task each of whose examples comes from one source row."""

    columns: tuple[str, ...] = Field(description="names of the columns to read, in order")

    def rows(self, split: Split) -> list[Row]:
        return self.split_rows(split, self.columns, lambda row: self.examples([row[name] for name in self.columns]))

    @abstractmethod
    def examples(self, values: list[Any]) -> list[Row]:
        """The examples from one row's columns: one, several or none."""


class Simpl(Instruction):
    """Text simplification: Wiki-Auto (Jiang et al., 2020), or ASSET, whose texts have ten
    simplifications each (``columns: [original, simplifications]``)."""

    name: str = "simpl"
    evals: tuple[str, ...] = ("simpl_loss",)
    source: str = "GEM/wiki_auto_asset_turk"
    revision: str | None = PARQUET
    columns: tuple[str, ...] = ("source", "target")

    def examples(self, values: list[Any]) -> list[Row]:
        text, simple = values
        prompt = f"Simplify this text: {text}"
        simpler = [simple] if isinstance(simple, str) else simple
        return [{"prompt": prompt, "response": response} for response in simpler]


class InqQG(Instruction):
    """Inquisitive question generation: the question that a text answers. ELI5 (Fan et al., 2019); the original was
    removed from the hub, so a copy with the same columns is used."""

    name: str = "inqqg"
    evals: tuple[str, ...] = ("inqqg_loss",)
    source: str = "Pavithree/eli5"
    columns: tuple[str, ...] = ("title", "answers")

    def examples(self, values: list[Any]) -> list[Row]:
        title, answers = values
        prompts = [f"Which question does this text answer? {text}" for text in answers["text"][:1]]
        return [{"prompt": prompt, "response": title} for prompt in prompts]


class HGen(Instruction):
    """Headline generation with a word that must appear: Gigaword (Graff et al., 2003; Rush et al., 2015)."""

    name: str = "hgen"
    evals: tuple[str, ...] = ("hgen_loss",)
    source: str = "Harvard/gigaword"
    revision: str | None = PARQUET
    columns: tuple[str, ...] = ("document", "summary")

    def examples(self, values: list[Any]) -> list[Row]:
        document, summary = values
        words = _words(summary)[:1]
        return [{"prompt": f'Write a headline with the word "{w}": {document}', "response": summary} for w in words]


COVID_FACT = ("entailment", "not_entailment")


class CovidFact(Instruction):
    """Whether a text entails a claim about COVID-19; from the code of Scialom et al., not on the hub."""

    name: str = "covid_fact"
    evals: tuple[str, ...] = ("covid_fact", "covid_fact_loss")
    source: str = "covid_fact"
    columns: tuple[str, ...] = ("sentence1", "sentence2", "label")

    def examples(self, values: list[Any]) -> list[Row]:
        text, claim, label = values
        prompt = f'{text}\nDoes this entail the claim "{claim}"? Yes or No:'
        if label not in COVID_FACT:
            raise SourceError(f"a label of {self.name} must be one of {', '.join(COVID_FACT)}, not {label!r}")
        answer = "Yes" if label == "entailment" else "No"
        return [{"prompt": prompt, "response": answer, "choices": ["No", "Yes"]}]


class CovidQA(Instruction):
    """Answers from articles about COVID-19: COVID-QA (Möller et al., 2020)."""

    name: str = "covid_qa"
    evals: tuple[str, ...] = ("covid_qa_loss",)
    source: str = "deepset/covid_qa_deepset"
    revision: str | None = PARQUET
    columns: tuple[str, ...] = ("context", "question", "answers")

    words: int = Field(200, ge=20, description="words of the article in the prompt, around the answer")

    def examples(self, values: list[Any]) -> list[Row]:
        context, question, answers = values
        if not answers["text"]:
            return []
        start = answers["answer_start"][0]
        before, after = context[:start].split(), context[start:].split()
        excerpt = [*before[-self.words // 2 :], *after[: self.words // 2]]
        prompt = f"{' '.join(excerpt)}\nQuestion: {question}\nAnswer:"
        return [{"prompt": prompt, "response": answers["text"][0]}]


class TwSt(Instruction):
    """Twitter stylometry: a tweet in the style of one of the twenty users with the most followers (Bin Tareaf, 2017);
    not on the hub, columns ``content`` and ``author``."""

    name: str = "twst"
    evals: tuple[str, ...] = ("twst_loss",)
    source: str = "tweets"
    columns: tuple[str, ...] = ("content", "author")

    users: int = Field(20, ge=1, description="how many users, those with the most tweets, are used")

    def rows(self, split: Split) -> list[Row]:
        author = self.columns[1]
        counts = collections.Counter(row[author] for row in self.read("train", self.columns))
        most_active = {name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: self.users]}

        def examples(row: SourceRow) -> list[Row]:
            return self.examples([row[name] for name in self.columns]) if row[author] in most_active else []

        return self.split_rows(split, self.columns, examples)

    def examples(self, values: list[Any]) -> list[Row]:
        content, author = values
        prompt = f"Write a tweet as {author} would, about: {' '.join(_words(content)[:2])}"
        return [{"prompt": prompt, "response": content}]


def _words(text: str) -> list[str]:
    """The content words of a text, longest first."""
    words = set(re.findall(r"[a-z]{4,}", text.lower()))
    return sorted(words, key=lambda word: (-len(word), word))
