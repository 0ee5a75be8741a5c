"""The quickstart's code task: which type a Python function returns, using the solutions in reasoning-gym."""

import gzip
import json
import random
import re
from functools import cache
from typing import ClassVar

from pydantic import Field

from sfa.data.task import Row, Split, Task, held_out, package_folder

TYPES = ["dict", "list", "float", "int"]


class Returns(Task):
    """From the last lines of a function to its return type, with equally many of each type. A fifth of the problems, by
    those lines, is held out."""

    name: str = "returns"
    evals: tuple[str, ...] = ("returns",)
    package: ClassVar[str] = "reasoning-gym"

    lines: int = Field(3, ge=1, description="lines of code in the prompt, not counting comments and empty lines")

    def rows(self, split: Split) -> list[Row]:
        rows_by_type: dict[str, dict[str, Row]] = {kind: {} for kind in TYPES}
        for code, kind in _functions(self.lines):
            if held_out(code, 2) == (split == "test"):
                rows_by_type[kind][code] = {"prompt": f"Code:\n{code}\nReturns:", "response": kind, "choices": TYPES}
        each = min(len(rows) for rows in rows_by_type.values())
        rng = random.Random(0)
        rows = [row for kind in TYPES for row in rng.sample(list(rows_by_type[kind].values()), each)]
        rng.shuffle(rows)
        return rows


@cache
def _functions(lines: int) -> list[tuple[str, str]]:
    """The last lines of every solution and its documented return type, if that is one of ``TYPES``."""
    functions = []
    with gzip.open(package_folder("reasoning_gym") / "data" / "codeio.jsonl.gz", "rt", encoding="utf-8") as stream:
        for problem in map(json.loads, stream):
            output = re.search(r"`return` \((\w+)(?![^)]* or )", problem["input_output_spec"].partition("Output")[2])
            code = [line for line in problem["code_sample"].splitlines() if line.partition("#")[0].strip()]
            if output and output[1] in TYPES:
                functions.append(("\n".join(code[-lines:]), output[1]))
    return functions
