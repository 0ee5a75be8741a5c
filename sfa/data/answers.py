"""Whether two responses have the same final answer."""

import re
from decimal import Decimal

from sfa.data.metamathqa import marked_number, numbers
from sfa.data.task import Row

SHORT = 5  # words of a response that is nothing but an answer
_STATED = re.compile(r".*\banswer is\b:?(.*)", re.DOTALL | re.IGNORECASE)  # the last


def keeps_answer(row: Row, rewritten: str) -> bool:
    """Whether a rewritten response has the final answer of the row's own.

    A final answer can be compared if the response states a number (after ``####`` or the last "answer is"), if it is
    one of the row's choices, or if it is short. Numbers must then be equal as numbers, and any other answer must end
    the rewritten response, apart from case and punctuation. Any text passes for a longer response.
    """
    response = row["response"]
    is_answer = response in row.get("choices", ()) or len(response.split()) <= SHORT
    number = _stated(response)
    if number is None and is_answer and len(alone := numbers(response)) == 1:
        number = alone[0]
    if number is not None:
        found = _stated(rewritten)
        return number == (found if found is not None else next(iter(numbers(rewritten)[::-1]), None))
    if not is_answer:
        return bool(rewritten.strip())
    return f" {_plain(rewritten)}".endswith(f" {_plain(response)}")


def _stated(text: str) -> Decimal | None:
    """The number that a solution states as its answer."""
    marked = marked_number(text)
    if marked is not None:
        return marked
    stated = _STATED.search(text)
    return next(iter(numbers(stated[1])), None) if stated is not None else None


def _plain(text: str) -> str:
    """The words of a text, without case and surrounding punctuation."""
    return " ".join(word for part in text.casefold().split() if (word := part.strip(".,;:!?\"'()*`")))
