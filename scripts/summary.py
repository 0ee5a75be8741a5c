"""A table of runs over seeds and orders of tasks: what each method retains and what it costs."""

import math
import statistics
from collections.abc import Sequence

from scripts import cells
from scripts.interval import format_mean_interval
from scripts.series import base_scores, scores
from sfa.records import Results
from sfa.runs import has_results, read_results
from sfa.stages.results import average_name, is_loss, named_metrics
from sfa.sweeps import SweepRun

LabelledRun = tuple[str, Results]  # label and results
DIGITS = {"average": 3, "forgetting": 3, "backward transfer": 3, "seconds": 0, "peak MiB": 0, "stored examples": 0,
          "L2 from anchor": 1}  # fmt: skip
METRICS = ("average", "forgetting", "backward transfer")
FEW = 6  # the most evaluations for which each has a column
FORMULAS = [
    "aᵢⱼ: score on task j after stage i, or its loss with the sign changed; stage 0 is the base, n the last.",
    "average = 1/n · Σⱼ aₙⱼ, higher is better; average loss = −1/n · Σⱼ aₙⱼ, the mean loss, lower is better",
    "forgetting = 1/(n−1) · Σⱼ₍ⱼ﹤ₙ₎ (max over i < n of aᵢⱼ, less aₙⱼ), lower is better",
    "backward transfer = 1/(n−1) · Σⱼ₍ⱼ﹤ₙ₎ (aₙⱼ − aⱼⱼ), higher is better",
    "seconds: training time over the stages that the run depends on; peak MiB: the largest of these stages; stored "
    "examples: of past tasks; L2 from anchor: the distance of the last stage's model from the one before it.",
]


def finished(runs: Sequence[SweepRun]) -> list[LabelledRun]:
    """The results of the runs that have finished."""
    return [(run.label, read_results(run.folder)) for run in runs if has_results(run.folder)]


def figures(run: Results) -> dict[str, float]:
    """A run's metrics, if it has any, and its costs, by the names in :data:`DIGITS`."""
    stages = run["stages"]
    metrics = {name.replace("_", " "): value for name, value in named_metrics(run)}
    return metrics | {
        "seconds": sum(stage["seconds"] for stage in stages),
        "peak MiB": max(stage["peak_bytes"] for stage in stages) / 2**20,
        "stored examples": max(stage["stored_examples"] for stage in stages),
        "L2 from anchor": stages[-1]["l2_from_anchor"],
    }


def table(runs: Sequence[LabelledRun]) -> str:
    """Markdown: a row per label, mean ± half a 95 % interval over its seeds and orders, the best average first."""
    notes = "\n".join(f"- {formula}" for formula in FORMULAS)
    lines = cells.markdown([head(runs), *rows(runs)])
    return f"{lines}\n\n± is half a 95 % interval over seeds and orders of tasks.\n\n{notes}"


def head(runs: Sequence[LabelledRun]) -> list[str]:
    return [{"average": _average(runs)}.get(name, name) for name in ["method", *_columns(runs)]]


def rows(runs: Sequence[LabelledRun]) -> list[list[str]]:
    """Cells of :func:`table`, a row per label; labels without a finite average come last."""
    by_label: dict[str, list[Results]] = {}
    for label, run in runs:
        by_label.setdefault(label, []).append(run)
    ranked = []
    for label, group in by_label.items():
        per_run = [figures(run) for run in group]
        finals = [scores(run, -1) for run in group]
        summary_cells = {
            name: format_mean_interval([f[name] for f in per_run], DIGITS[name])
            for name in DIGITS
            if name in per_run[0]
        }
        score_cells = {name: format_mean_interval([final[name] for final in finals], 3) for name in _evaluations(runs)}
        mean = statistics.fmean(f.get("average", math.nan) for f in per_run)
        worse = mean if is_loss(group[0]) else -mean
        line = [label, *({**summary_cells, **score_cells}.get(name, "–") for name in _columns(runs))]
        ranked.append((math.inf if math.isnan(worse) else worse, line))
    return [line for _, line in sorted(ranked, key=lambda pair: pair[0])]


def _columns(runs: Sequence[LabelledRun]) -> list[str]:
    return [*METRICS, *_evaluations(runs), *(name for name in DIGITS if name not in METRICS)]


def _average(runs: Sequence[LabelledRun]) -> str:
    """The header of the column of averages."""
    kinds = {average_name(run) for _, run in runs}
    return kinds.pop() if len(kinds) == 1 else "average, or average loss"


def _evaluations(runs: Sequence[LabelledRun]) -> list[str]:
    """Evaluations that have a column: all, or none if there are too many."""
    names = [name for name in base_scores(runs[0][1]) if all(name in scores(run, -1) for _, run in runs)]
    return names if len(names) <= FEW else []
