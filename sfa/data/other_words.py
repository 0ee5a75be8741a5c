"""What a small language model is pretrained on before a stream of arithmetic, legal terms and Python: text of these
domains that no task of the stream holds out, without their questions."""

import gzip
import json
import operator
import random
from collections.abc import Callable, Iterator
from typing import ClassVar

from pydantic import Field

from sfa.data.licences import english_licences
from sfa.data.task import Row, Split, Task, held_out, package_folder

OPERATIONS: dict[str, Callable[[int, int], int]] = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}
LAST_LINES = 12  # of a program, which no row has: the task ``returns`` asks about them


class OtherWords(Task):
    """Licences of the families that ``legal_terms`` trains on, the beginnings of the programs whose ends are rows of
    ``returns``, and sums, differences and products of two numbers."""

    name: str = "other_words"
    evals: tuple[str, ...] = ("other_words_loss",)
    package: ClassVar[str] = "licensedcode-data"

    words: int = Field(100, ge=8, description="words of a piece of a licence")
    lines: int = Field(16, ge=1, description="lines of a piece of a program")
    sums: int = Field(12_000, ge=1, description="sums, differences and products")

    def rows(self, split: Split) -> list[Row]:
        rng = random.Random(0)
        rows: list[Row] = [{"prompt": "Text:", "response": text} for text in [*self._licences(), *self._programs()]]
        for _ in range(self.sums):
            (word, operation), a, b = rng.choice([*OPERATIONS.items()]), rng.randrange(100), rng.randrange(20)
            rows.append({"prompt": f"Question: What is {a} {word} {b}?\nAnswer:", "response": str(operation(a, b))})
        rng.shuffle(rows)
        return [row for row in rows if held_out(row["prompt"] + row["response"], 1, 50) == (split == "test")]

    def _licences(self) -> Iterator[str]:
        for family, text in english_licences():
            if not held_out(family, 2):
                yield from (" ".join(text[i : i + self.words]) for i in range(0, len(text), self.words))

    def _programs(self) -> Iterator[str]:
        with gzip.open(package_folder("reasoning_gym") / "data" / "codeio.jsonl.gz", "rt", encoding="utf-8") as stream:
            for problem in map(json.loads, stream):
                lines = [line for line in problem["code_sample"].splitlines() if line.strip()][:-LAST_LINES]
                yield from ("\n".join(lines[i : i + self.lines]) for i in range(0, len(lines), self.lines))
