"""Scores of choices of several tokens from one computation of their prompt, against one for each choice."""

from functools import partial

import torch
from lm_eval.api.instance import Instance

from eval.lm import LiveLM
from scripts.bench.evaluation import PRETRAINED
from scripts.bench.measure import Missing, Row, Setup, in_turn
from sfa.data.custom import Custom
from sfa.data.source import SourceError
from sfa.data.task import looking_in
from sfa.models import stored

LABELS = ["Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation",
          "Building", "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work"]  # fmt: skip
BOUND = 5.0


class Separate(LiveLM):
    """Computes the prompt for each choice that starts differently."""

    def _cache(self) -> None:
        return None


def run(setup: Setup) -> list[Row]:
    """Time to score DBpedia's fourteen labels on SmolLM2-135M.

    Raises:
        Missing: the rows or the model were not found.
        RuntimeError: the log-probabilities differ.
    """
    if not PRETRAINED.is_dir():
        raise Missing(f"{PRETRAINED} does not exist: make {PRETRAINED}")
    columns = {"prompt": "{sentence}\nClass:", "response": "{label}", "choices": LABELS}
    task = Custom.model_validate(
        {"name": "dbpedia", "source": "CL_Benchmark/dbpedia", **columns}, context=looking_in(setup.data_folder)
    )
    count = 1 if setup.small else 32
    try:
        rows = task.rows("test")[:count]
    except SourceError as error:
        raise Missing(f"{error}; use a data folder with dbpedia") from error
    requests = [
        Instance("loglikelihood", {}, (row["prompt"], f" {choice}"), i)
        for i, row in enumerate(rows)
        for choice in row["choices"]
    ]
    model, tokenizer = stored.read_model(PRETRAINED).to(setup.device).eval(), stored.read_processor(PRETRAINED)
    scores = {}

    def measured(kind: type[LiveLM]) -> None:
        scores[kind] = kind(pretrained=model, tokenizer=tokenizer, batch_size=32).loglikelihood(requests)

    works = {kind.__name__: partial(measured, kind) for kind in (LiveLM, Separate)}
    seconds = in_turn(works, setup.rounds(3), warm_up=1)
    ours, theirs = (torch.tensor([value for value, _ in scores[kind]]) for kind in (LiveLM, Separate))
    if not torch.allclose(ours, theirs, rtol=1e-4):
        raise RuntimeError(f"the log-probabilities differ by {float((ours - theirs).abs().max())}")
    return [
        Row(
            line="choices of several tokens: one computation of their prompt",
            case=f"SmolLM2-135M, {count} rows of DBpedia, 14 choices",
            against="the prompt anew for each choice that starts differently",
            ours=seconds["LiveLM"],
            other=seconds["Separate"],
            bound=BOUND,
            sense="at least",
            note=f"log-probabilities differ by at most {float((ours - theirs).abs().max()):.0e}",
        )
    ]
