"""Code of the quickstart: what type a Python function returns, over the solutions of reasoning-gym's problems."""

import gzip
import json
import random
import re
from typing import ClassVar

from pydantic import Field

from sfa.data.task import Row, Split, Task, held_out, package_folder

TYPES = ["dict", "list", "float", "int"]


class Returns(Task):
    """The last lines of a function to the type of what it returns, as many of each type. A fifth of the problems, by
    those lines, is held out."""

    name: str = "returns"
    evals: tuple[str, ...] = ("returns",)
    package: ClassVar[str] = "reasoning-gym"

    lines: int = Field(3, ge=1, description="lines of code shown, comments and empty lines not counted")

    def rows(self, split: Split) -> list[Row]:
        found: dict[str, dict[str, Row]] = {kind: {} for kind in TYPES}
        for code, kind in _functions(self.lines):
            if held_out(code, 2) == (split == "test"):
                found[kind][code] = {"prompt": f"Code:\n{code}\nReturns:", "response": kind, "choices": TYPES}
        each = min(len(rows) for rows in found.values())
        rng = random.Random(0)
        rows = [row for kind in TYPES for row in rng.sample(list(found[kind].values()), each)]
        rng.shuffle(rows)
        return rows


def _functions(lines: int) -> list[tuple[str, str]]:
    """The last lines of every solution, and the type that its problem says it returns, if it is one of ours."""
    found = []
    with gzip.open(package_folder("reasoning_gym") / "data" / "codeio.jsonl.gz", "rt", encoding="utf-8") as stream:
        for problem in map(json.loads, stream):
            output = re.search(r"`return` \((\w+)(?![^)]* or )", problem["input_output_spec"].partition("Output")[2])
            code = [line for line in problem["code_sample"].splitlines() if line.partition("#")[0].strip()]
            if output and output[1] in TYPES:
                found.append(("\n".join(code[-lines:]), output[1]))
    return found
