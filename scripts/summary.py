"""Runs over several seeds and orders of tasks as one table: what a method keeps, and what it costs."""

import math
import statistics
from collections.abc import Sequence

from scripts import cells
from scripts.interval import spread
from scripts.series import base_scores, scores
from sfa.records import Results
from sfa.runs import has_results, read_results
from sfa.stages.results import average_name, is_loss, named_metrics
from sfa.sweeps import SweepRun

Labelled = tuple[str, Results]  # label, and what the run came to
DIGITS = {"average": 3, "forgetting": 3, "backward transfer": 3, "seconds": 0, "peak MiB": 0, "stored examples": 0,
          "L2 from anchor": 1}  # fmt: skip
METRICS = ("average", "forgetting", "backward transfer")
FEW = 6  # evaluations that get a column each
FORMULAS = [
    "aᵢⱼ: score on task j after stage i, or its loss with the sign changed; stage 0 is the base, n the last.",
    "average = 1/n · Σⱼ aₙⱼ, higher is better; average loss = −1/n · Σⱼ aₙⱼ, the mean loss, lower is better",
    "forgetting = 1/(n−1) · Σⱼ₍ⱼ﹤ₙ₎ (max over i < n of aᵢⱼ, less aₙⱼ), lower is better",
    "backward transfer = 1/(n−1) · Σⱼ₍ⱼ﹤ₙ₎ (aₙⱼ − aⱼⱼ), higher is better",
    "seconds: of training, over the stages of the run's own path; peak MiB: the largest of theirs; stored examples: of "
    "past tasks; L2 from anchor: of the last stage, from the model before it.",
]


def finished(runs: Sequence[SweepRun]) -> list[Labelled]:
    """The results of those runs of a sweep that have any."""
    return [(run.label, read_results(run.folder)) for run in runs if has_results(run.folder)]


def figures(run: Results) -> dict[str, float]:
    """What a run came to and what it cost, by the names of :data:`DIGITS`; metrics are left out where it has none."""
    stages = run["stages"]
    told = {name.replace("_", " "): value for name, value in named_metrics(run)}
    return told | {
        "seconds": sum(stage["seconds"] for stage in stages),
        "peak MiB": max(stage["peak_bytes"] for stage in stages) / 2**20,
        "stored examples": max(stage["stored_examples"] for stage in stages),
        "L2 from anchor": stages[-1]["l2_from_anchor"],
    }


def table(runs: Sequence[Labelled]) -> str:
    """Markdown: a row a label, mean ± half a 95 % interval over its seeds and orders, the best average first."""
    notes = "\n".join(f"- {formula}" for formula in FORMULAS)
    lines = cells.markdown([head(runs), *rows(runs)])
    return f"{lines}\n\n± is half a 95 % interval over seeds and orders of tasks.\n\n{notes}"


def head(runs: Sequence[Labelled]) -> list[str]:
    return [{"average": _average(runs)}.get(name, name) for name in ["method", *_columns(runs)]]


def rows(runs: Sequence[Labelled]) -> list[list[str]]:
    """Cells of :func:`table`, a line a label; a label without an average, or with one that diverged, comes last."""
    by_label: dict[str, list[Results]] = {}
    for label, run in runs:
        by_label.setdefault(label, []).append(run)
    ranked = []
    for label, group in by_label.items():
        told = [figures(run) for run in group]
        finals = [scores(run, -1) for run in group]
        shown = {name: spread([f[name] for f in told], DIGITS[name]) for name in DIGITS if name in told[0]}
        evaluated = {name: spread([final[name] for final in finals], 3) for name in _shown(runs)}
        mean = statistics.fmean(f.get("average", math.nan) for f in told)
        worse = mean if is_loss(group[0]) else -mean
        line = [label, *({**shown, **evaluated}.get(name, "–") for name in _columns(runs))]
        ranked.append((math.inf if math.isnan(worse) else worse, line))
    return [line for _, line in sorted(ranked, key=lambda pair: pair[0])]


def _columns(runs: Sequence[Labelled]) -> list[str]:
    return [*METRICS, *_shown(runs), *(name for name in DIGITS if name not in METRICS)]


def _average(runs: Sequence[Labelled]) -> str:
    """The head of the averages: by name what they are, if all are the same."""
    kinds = {average_name(run) for _, run in runs}
    return kinds.pop() if len(kinds) == 1 else "average, or average loss"


def _shown(runs: Sequence[Labelled]) -> list[str]:
    """Evaluations that get a column: all, unless they are many."""
    found = list(base_scores(runs[0][1]))
    return found if len(found) <= FEW else []
