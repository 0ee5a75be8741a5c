"""Math: MetaMathQA, scored on GSM8K."""

import re
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from sfa.data.formats import SourceRow
from sfa.data.source import Source, SourceError, find, identity, load
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import Row, Split, data_folder_of
from sfa.values import Spec


class MetaMathQA(SourcedTask):
    """Word problems with worked answers (Yu et al., 2023). GSM8K's test problems come from ``gsm8k``; to train
    on its training split: ``{name: metamathqa, source: openai/gsm8k, subset: main, query: question, response:
    answer}``."""

    name: str = "metamathqa"
    evals: tuple[str, ...] = ("gsm8k",)
    epoch_tokens: ClassVar[float | None] = 9e7  # 395,000 rows of about 900 characters
    source: str = "meta-math/MetaMathQA"

    query: str = Field("query", description="column of the problem")
    response: str = Field("response", description="column of the worked answer")
    gsm8k: str = Field("openai/gsm8k", description="source of the test problems")

    _problems: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._problems = find(self.gsm8k, data_folder_of(context), "main")

    def rows(self, split: Split) -> list[Row]:
        def examples(row: SourceRow) -> list[Row]:
            return [{"prompt": row[self.query], "response": row[self.response]}]

        return self.split_rows(split, [self.query, self.response], examples)

    def eval_rows(self, evaluation: str) -> list[Row]:
        problems = load(self._problems, "test", ["question", "answer"])
        return [{"prompt": row["question"], "response": number(row["answer"])} for row in problems]

    def eval_spec(self, evaluation: str) -> Spec:
        spec = super().eval_spec(evaluation)
        return {**spec, "gsm8k": identity(self._problems)} if evaluation == "gsm8k" else spec


def number(answer: str) -> str:
    """The number after GSM8K's ``####``, as plain digits.

    Raises:
        SourceError: there is none.
    """
    value = marked_number(answer)
    if value is None:
        raise SourceError(f"a solution of GSM8K must hold #### before its number: no #### in {answer!r}")
    return f"{value:f}"


# A minus sign precedes digits or a currency, and follows nothing that it could be subtracted from.
NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\].])[-\N{MINUS SIGN}\N{EN DASH}])?(?:(?P<currency>[$\N{EURO SIGN}\N{POUND SIGN}])\s?)?"
    r"(?P<inner>(?<=[$\N{EURO SIGN}\N{POUND SIGN}])[-\N{MINUS SIGN}])?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, exactly: ``$72.00`` is 72, ``1,200`` is 1200, ``−5`` is −5, ``7-5`` are 7 and 5."""
    return [_value(match) for match in NUMBER.finditer(text)]


def marked_number(text: str) -> Decimal | None:
    """The number directly after the first ``####`` that a number follows; ``None`` if there is none."""
    match = re.search(rf"####\s*{NUMBER.pattern}", text)
    return _value(match) if match is not None else None


def _value(match: re.Match[str]) -> Decimal:
    return Decimal(match["digits"].replace(",", "")) * (-1 if match["minus"] or match["inner"] else 1)
