"""Code of the quickstart: the signature of a Python function for described inputs, from reasoning-gym's problems."""

import gzip
import json
import random
import re

from pydantic import Field

from sfa.data.task import Row, Split, Task, held_out, package_folder


class Signatures(Task):
    """Names and types of a problem's inputs to the ``def`` line of its solution. A tenth of the problems, by their
    inputs, is held out; there, three choices are the lines of other problems with as many inputs."""

    name = "signatures"
    evals = ("signatures",)
    package = "reasoning-gym"

    max_inputs: int = Field(4, ge=1, description="problems with more inputs are left out")

    def rows(self, split: Split) -> list[Row]:
        rows: dict[str, Row] = {}
        for prompt, line in _problems(self.max_inputs):
            if held_out(prompt, tenths=1) == (split == "test"):
                rows.setdefault(prompt, {"prompt": prompt, "response": line})
        return list(rows.values()) if split == "train" else _with_choices(list(rows.values()))


def _problems(max_inputs: int) -> list[tuple[str, str]]:
    """Prompt and signature of every problem whose solution takes exactly the inputs that its description names."""
    found = []
    with gzip.open(package_folder("reasoning_gym") / "data" / "codeio.jsonl.gz", "rt", encoding="utf-8") as stream:
        for problem in map(json.loads, stream):
            inputs = re.findall(r"`(\w+)` \(([^)]*)\)", problem["input_output_spec"].split("Output")[0])
            line = re.search(r"^def main_solution\((.*)\):$", problem["code_sample"], re.MULTILINE)
            if not line or not 0 < len(inputs) <= max_inputs:
                continue
            if [re.split("[:=]", part)[0].strip() for part in line[1].split(",")] == [name for name, _ in inputs]:
                described = ", ".join(f"{name} ({kind})" for name, kind in inputs)
                found.append((f"Inputs: {described}\nCode:", line[0]))
    return found


def _with_choices(rows: list[Row]) -> list[Row]:
    rng = random.Random(0)
    for row in rows:
        commas = row["response"].count(",")
        others = sorted({r["response"] for r in rows if r["response"].count(",") == commas} - {row["response"]})
        row["choices"] = [row["response"], *rng.sample(others, 3)]
        rng.shuffle(row["choices"])
    return rows
