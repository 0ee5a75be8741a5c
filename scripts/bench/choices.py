"""Scores of choices of several tokens from one computation of their prompt, against one for each choice."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lm_eval.api.instance import Instance

from eval.lm import LiveLM
from scripts.bench.evaluation import PRETRAINED
from scripts.bench.measure import Missing, Row, Setup, in_turn
from sfa.data.custom import Custom
from sfa.data.source import SourceError, find, load
from sfa.data.task import looking_in
from sfa.models import stored

LINE = "choices of several tokens: one computation of their prompt"
LABELS = ["Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation",
          "Building", "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work"]  # fmt: skip

Asked = list[tuple[str, list[str]]]  # prompts, each with its choices


class Separate(LiveLM):
    """Computes the prompt for each choice that starts differently."""

    def _longest_shared(self) -> int:
        return 0


def run(setup: Setup) -> list[Row]:
    """Time to score DBpedia's fourteen labels, and CaseHOLD's five holdings, on SmolLM2-135M.

    Raises:
        Missing: the rows or the model were not found.
        RuntimeError: the log-probabilities differ.
    """
    if not PRETRAINED.is_dir():
        raise Missing(f"{PRETRAINED} does not exist: make {PRETRAINED}")
    model, tokenizer = stored.read_model(PRETRAINED).to(setup.device).eval(), stored.read_processor(PRETRAINED)
    return [
        _row("DBpedia, 14 labels", _read(_dbpedia, 32, setup), 5.0, model, tokenizer, setup),
        _row("CaseHOLD, 5 holdings written out", _read(_casehold, 16, setup), 2.0, model, tokenizer, setup),
    ]


def _read(source: Callable[[Setup], Asked], count: int, setup: Setup) -> Asked:
    try:
        return source(setup)[: 1 if setup.small else count]
    except SourceError as error:
        raise Missing(f"{error}; use a data folder with dbpedia and casehold") from error


def _dbpedia(setup: Setup) -> Asked:
    columns = {"prompt": "{sentence}\nClass:", "response": "{label}", "choices": LABELS}
    task = Custom.model_validate(
        {"name": "dbpedia", "source": "CL_Benchmark/dbpedia", **columns}, context=looking_in(setup.data_folder)
    )
    return [(row["prompt"], row["choices"]) for row in task.rows("test")]


def _casehold(setup: Setup) -> Asked:
    """The holdings follow the opinion that cites one of them; the suite's own evaluation asks for a letter."""
    holdings = [f"holding_{i}" for i in range(5)]
    source = find("casehold/casehold", setup.data_folder, "all")
    rows = load(source, "test", ["citing_prompt", *holdings])
    return [(f"{row['citing_prompt']}\nHolding:", [str(row[name]) for name in holdings]) for row in rows]


def _row(case: str, asked: Asked, bound: float, model: Any, tokenizer: Any, setup: Setup) -> Row:
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {choice}"), i)
        for i, (prompt, choices) in enumerate(asked)
        for choice in choices
    ]
    scores = {}

    def measured(kind: type[LiveLM]) -> None:
        scores[kind] = kind(pretrained=model, tokenizer=tokenizer, batch_size=32).loglikelihood(requests)

    works = {kind.__name__: partial(measured, kind) for kind in (LiveLM, Separate)}
    seconds = in_turn(works, setup.rounds(3), warm_up=1)
    ours, theirs = (torch.tensor([value for value, _ in scores[kind]]) for kind in (LiveLM, Separate))
    if not torch.allclose(ours, theirs, rtol=1e-4):
        raise RuntimeError(f"{case}: the log-probabilities differ by {float((ours - theirs).abs().max())}")
    return Row(
        line=LINE,
        case=f"SmolLM2-135M, {len(asked)} rows of {case}",
        against="the prompt anew for each choice that starts differently",
        ours=seconds["LiveLM"],
        other=seconds["Separate"],
        bound=bound,
        sense="at least",
        note=f"log-probabilities differ by at most {float((ours - theirs).abs().max()):.0e}",
    )
