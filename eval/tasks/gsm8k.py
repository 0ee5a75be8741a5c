"""Reads the answer out of a worked solution, and scores it by three rules."""

import functools
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks._yaml_loader import load_yaml

from sfa.data.metamathqa import marked_number, numbers

STATED = re.compile(
    r".*\banswer is\b(?:[^A-Za-z\n]*=)?(.*)", re.DOTALL | re.IGNORECASE
)  # as MetaMathQA's end; the last
INVALID = "[invalid]"


def scored(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """``exact_match``: the stated answer, as a number, is the right one. ``strict_match`` and ``flexible_extract``: the
    two rules of lm-eval's own gsm8k, which compare texts."""
    return {"exact_match": float(answer(results[0]) == Decimal(doc["response"]))} | {
        name: _by_lm_eval(rule, results[0], doc["response"]) for name, rule in _rules().items()
    }


def answer(text: str) -> Decimal | None:
    """The number that a solution states: the one after ``####``; without it, the first after the last "answer is", and
    after the equation that may follow that; without this, the last number of all. ``None``: there is no number."""
    marked = marked_number(text)
    if marked is not None:
        return marked
    stated = STATED.search(text)
    if stated is not None and (after := numbers(stated[1])):
        return after[0]
    every = numbers(text)
    return every[-1] if every else None


def _by_lm_eval(rule: RegexFilter, text: str, right: str) -> float:
    (extracted,) = rule.apply([[text]], [{}])
    return float(exact_match_hf_evaluate(extracted, [right], **_options())["exact_match"])


@functools.cache
def _shipped() -> dict[str, Any]:
    return dict(load_yaml(Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"))


@functools.cache
def _rules() -> dict[str, RegexFilter]:
    """lm-eval's filters by name: ``strict_match`` and ``flexible_extract``."""
    listed = {part["name"].replace("-", "_"): part["filter"][0] for part in _shipped()["filter_list"]}
    return {
        name: RegexFilter(**{key: value for key, value in options.items() if key != "function"}, fallback=INVALID)
        for name, options in listed.items()
    }


def _options() -> dict[str, Any]:
    names = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
    return {name: _shipped()["metric_list"][0][name] for name in names}
