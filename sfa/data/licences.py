"""The quickstart's law task: which kind of licence an excerpt is from, using the texts of licensedcode-data."""

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

from pydantic import Field

from sfa.data.task import Row, Split, Task, held_out, package_folder

KINDS = {"Permissive": "permissive", "Proprietary Free": "proprietary", "Copyleft Limited": "copyleft"}
SHARED_WORDS = 8


class Licences(Task):
    """Excerpts of licences of three kinds, in equal numbers. A fifth of the licence families is held out, and a
    held-out excerpt that shares eight consecutive words with a training licence is dropped."""

    name: str = "licences"
    evals: tuple[str, ...] = ("licences",)
    package: ClassVar[str] = "licensedcode-data"

    words: int = Field(20, ge=SHARED_WORDS, description="words of an excerpt")
    excerpts: int = Field(16, ge=1, description="excerpts of each training licence")

    def rows(self, split: Split) -> list[Row]:
        licences = _licences(self.words)
        rng = random.Random(0)
        excerpts: dict[str, list[list[str]]] = {kind: [] for kind in KINDS.values()}
        for family, kind, text in licences:
            if held_out(family, 2) == (split == "test"):
                for i in range(self.excerpts if split == "train" else 4):
                    start = rng.randrange(len(text) - self.words + 1) if i else 0
                    excerpts[kind].append(text[start : start + self.words])
        if split == "test":
            excerpts = drop_seen(excerpts, [text for family, _, text in licences if not held_out(family, 2)])
        each = min(len(texts) for texts in excerpts.values())
        rows: list[Row] = [
            {"prompt": f"Licence: {' '.join(text)}\nKind:", "response": kind, "choices": list(KINDS.values())}
            for kind, texts in excerpts.items()
            for text in rng.sample(texts, each)
        ]
        rng.shuffle(rows)
        return rows


@cache
def _licences(words: int) -> list[tuple[str, str, list[str]]]:
    """Family, kind and words of every licence of ``KINDS`` with at least ``words`` words."""
    return [
        (_family(about), KINDS[about["category"]], text.split())
        for about, text in _files()
        if about.get("category") in KINDS and len(text.split()) >= words
    ]


def english_licences() -> list[tuple[str, list[str]]]:
    """Family and words of every licence in English."""
    return [(_family(about), text.split()) for about, text in _files() if about.get("language", "en") == "en"]


def _files() -> Iterator[tuple[dict[str, str], str]]:
    """The header and the text of every licence that is not deprecated."""
    for file in sorted((package_folder("licensedcode") / "data" / "licenses").glob("*.LICENSE")):
        _, head, text = file.read_text(encoding="utf-8").split("---", 2)
        about = dict(re.findall(r"^(\w+): *(.*)$", head, re.MULTILINE))
        if "is_deprecated" not in about:
            yield about, text


def _family(about: dict[str, str]) -> str:
    """The first part of a licence's name, as in gpl-2.0 and gpl-3.0."""
    return re.split(r"[-_.\d]", about["key"])[0]


def drop_seen(excerpts: dict[str, list[list[str]]], training: list[list[str]]) -> dict[str, list[list[str]]]:
    """The excerpts that share no ``SHARED_WORDS`` consecutive words with a training text."""
    test_runs = {run for texts in excerpts.values() for text in texts for run in _runs(text)}
    training_runs = {run for text in training for run in _runs(text) if run in test_runs}
    return {kind: [text for text in texts if not training_runs & _runs(text)] for kind, texts in excerpts.items()}


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    plain = re.findall(r"[a-z]+", " ".join(words).lower())
    return set(zip(*(plain[i:] for i in range(SHARED_WORDS)), strict=False))
