"""Code: Magicoder-Evol-Instruct-110K, scored on HumanEval with five shots."""

import random
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from sfa.data.formats import SourceRow
from sfa.data.source import Source, find, identity, load
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import Row, Split, data_folder_of
from sfa.values import Spec

SHOTS = 5


class Magicoder(SourcedTask):
    """Instructions to code (Wei et al., 2023)."""

    name: str = "magicoder"
    evals: tuple[str, ...] = ("humaneval",)
    code_evals: ClassVar[tuple[str, ...]] = ("humaneval",)
    epoch_tokens: ClassVar[float | None] = 3.5e7  # 75,000 rows of about 1,900 characters
    source: str = "ise-uiuc/Magicoder-Evol-Instruct-110K"

    humaneval: str = Field("openai/openai_humaneval", description="source of the test problems")

    _problems: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._problems = find(self.humaneval, data_folder_of(context))

    def rows(self, split: Split) -> list[Row]:
        def examples(row: SourceRow) -> list[Row]:
            return [{"prompt": row["instruction"], "response": row["response"]}]

        return self.split_rows(split, ["instruction", "response"], examples)

    def eval_rows(self, evaluation: str) -> list[Row]:
        return humaneval_rows(self._problems)

    def eval_spec(self, evaluation: str) -> Spec:
        spec = super().eval_spec(evaluation)
        return {**spec, "humaneval": identity(self._problems)} if evaluation == "humaneval" else spec


def humaneval_rows(source: Source, shots: int = SHOTS) -> list[Row]:
    """HumanEval's problems (Chen et al., 2021), as text to continue. The shots before each are other problems with
    their canonical solutions, drawn with a seed: never the problem itself, and no unit tests."""
    columns = ["prompt", "canonical_solution", "test", "entry_point"]
    problems = load(source, "test", columns)
    rng = random.Random(0)
    rows: list[Row] = []
    for problem in problems:
        examples = rng.sample([candidate for candidate in problems if candidate["prompt"] != problem["prompt"]], shots)
        rows.append(
            {
                "prompt": "\n\n".join(
                    [*(s["prompt"] + s["canonical_solution"].rstrip() for s in examples), problem["prompt"]]
                ),
                "response": problem["canonical_solution"],
                "program": [problem["prompt"], f"\n{problem['test']}\ncheck({problem['entry_point']})\n"],
            }
        )
    return rows
