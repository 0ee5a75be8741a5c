"""Math: MetaMathQA, scored on GSM8K."""

import re
from typing import Any, ClassVar

from pydantic import Field

from sfa.data.source import SourcedTask, SourceError, load
from sfa.data.task import Row, Split


class MetaMathQA(SourcedTask):
    """Word problems with worked answers (Yu et al., 2023). GSM8K's test problems come from ``gsm8k``; its training
    split does for training too: ``{name: metamathqa, source: openai/gsm8k, subset: main, query: question, response:
    answer}``."""

    name: str = "metamathqa"
    evals: tuple[str, ...] = ("gsm8k",)
    epoch_tokens: ClassVar[float | None] = 9e7  # 395,000 rows of about 900 characters
    source: str = "meta-math/MetaMathQA"

    query: str = Field("query", description="column of the problem")
    response: str = Field("response", description="column of the worked answer")
    gsm8k: str = Field("openai/gsm8k", description="where the test problems are")

    def rows(self, split: Split) -> list[Row]:
        def examples(row: dict[str, Any]) -> list[Row]:
            return [{"prompt": row[self.query], "response": row[self.response]}]

        return self.split_rows(split, [self.query, self.response], examples)

    def eval_rows(self, evaluation: str) -> list[Row]:
        found = load(self.gsm8k, "test", ["question", "answer"], self.data_folder, "main")
        return [{"prompt": row["question"], "response": number(row["answer"])} for row in found]


def number(answer: str) -> str:
    """The number after GSM8K's ``####``, without thousands separators.

    Raises:
        SourceError: there is none.
    """
    found = re.search(r"####\s*(-?[\d,.]+)", answer)
    if found is None:
        raise SourceError(f"a solution of GSM8K must hold #### before its number: no #### in {answer!r}")
    return found[1].replace(",", "").rstrip(".")
