"""Scores completions of HumanEval by running them, apart from the tests that judge them."""

from typing import Any

from eval.sandbox import solves


def passed(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 if the completed function passes the problem's tests."""
    before, after = doc["program"]
    return {"pass@1": float(solves(before, results[0], after))}
