"""Math of the quickstart: generated word problems."""

import hashlib
from typing import Literal

from pydantic import Field

from sfa.data.task import Row, Task


class Arithmetic(Task):
    """TEMP"""

    name = "arithmetic"
    evals = ("arithmetic",)
    package = "reasoning-gym"

    train_rows: int = Field(8000, ge=1)
    test_rows: int = Field(200, ge=1)

    def rows(self, split: Literal["train", "test"]) -> list[Row]:
        n = self.train_rows if split == "train" else self.test_rows
        rows: list[Row] = []
        import random
        rng = random.Random(0)
        seen = set()
        while len(rows) < n:
            a, b = rng.randrange(100), rng.randrange(100)
            q = f"Question: What is {a} + {b}?\nAnswer:"
            held = int(hashlib.md5(q.encode()).hexdigest(), 16) % 10 == 0
            if held != (split == "test"):
                continue
            rows.append({"prompt": q, "response": str(a + b)})
        return rows
