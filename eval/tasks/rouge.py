"""Overlap of what the model writes with the reference."""

from typing import Any

from rouge_score.rouge_scorer import RougeScorer

SCORER = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F1 of ROUGE-1 and ROUGE-L, from 0 to 1."""
    return {name: score.fmeasure for name, score in SCORER.score(doc["response"], results[0]).items()}
