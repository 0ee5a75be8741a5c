"""A law task that a small model can learn: which legal term is missing from an excerpt of a licence. The answer is a
letter, so that a model that has read licences, but not this task, guesses."""

import random
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from sfa.data.licences import drop_seen, english_licences
from sfa.data.task import Row, Split, Task, held_out

TERMS = {"damages": "A", "patent": "B", "termination": "C", "warranty": "D"}  # each with its answer
BLANK = "____"


class LegalTerms(Task):
    """Excerpts of licences with one of four terms blanked out, in equal numbers. A fifth of the licence families is
    held out, and a held-out excerpt that shares eight consecutive words with a training licence is dropped."""

    name: str = "legal_terms"
    evals: tuple[str, ...] = ("legal_terms",)
    package: ClassVar[str] = "licensedcode-data"

    words: int = Field(16, ge=8, description="words of an excerpt, half of them before the term")

    def rows(self, split: Split) -> list[Row]:
        licences = english_licences()
        excerpts: dict[str, list[list[str]]] = {term: [] for term in TERMS}
        for family, text in licences:
            if held_out(family, 2) == (split == "test"):
                for term, excerpt in _excerpts(text, self.words // 2):
                    excerpts[term].append(excerpt)
        if split == "test":
            excerpts = drop_seen(excerpts, [text for family, text in licences if not held_out(family, 2)])
        rng = random.Random(0)
        each = min(len(texts) for texts in excerpts.values())
        rows: list[Row] = [
            {"prompt": f"Licence: {' '.join(text)}\nMissing:", "response": TERMS[term], "choices": [*TERMS.values()]}
            for term, texts in excerpts.items()
            for text in rng.sample(texts, each)
        ]
        rng.shuffle(rows)
        return rows


def _excerpts(text: list[str], half: int) -> Iterator[tuple[str, list[str]]]:
    """Non-overlapping excerpts with exactly one of ``TERMS``, which is replaced by ``BLANK``."""
    plain = [word.lower().strip(".,;:()\"'“”") for word in text]
    end = 0
    for i in range(half, len(text) - half):
        if plain[i] in TERMS and i - half >= end and sum(word in TERMS for word in plain[i - half : i + half]) == 1:
            yield plain[i], [*text[i - half : i], BLANK, *text[i + 1 : i + half]]
            end = i + half
