"""A table of runs over seeds and orders of tasks: what each method retains and what it costs."""

import math
import statistics
from collections.abc import Sequence

from scripts import cells
from scripts.interval import format_mean_interval, mean_interval
from scripts.series import base_scores, scores
from sfa.records import Results
from sfa.runs import has_results, read_scored
from sfa.stages.results import average_name, general_scores, is_loss, named_metrics
from sfa.sweeps import SweepRun

LabelledRun = tuple[str, Results]  # label and results
METRICS = ("average", "forgetting", "backward transfer", "forward transfer", "new task score", "gain kept")
GENERAL = ("prior suite", "its change")  # columns of runs that score it
DIGITS = {**dict.fromkeys((*METRICS, *GENERAL), 3), "seconds": 0, "peak MiB": 0, "stored examples": 0,
          "L2 from anchor": 1}  # fmt: skip
INTERVALS = "± is half a 95 % interval over seeds and orders of tasks."
COMPARED = ("average", "gain kept", "new task score")
FEW = 6  # the most evaluations for which each has a column
FORMULAS = [
    "aᵢⱼ: score on task j after stage i, or its loss with the sign changed; stage 0 is the base, n the last.",
    "average = 1/n · Σⱼ aₙⱼ, higher is better; average loss = −1/n · Σⱼ aₙⱼ, the mean loss, lower is better",
    "forgetting = 1/(n−1) · Σ over j < n of (max over i < n of aᵢⱼ, less aₙⱼ), lower is better (Chaudhry et al., 2018)",
    "backward transfer = 1/(n−1) · Σ over j < n of (aₙⱼ − aⱼⱼ), higher is better (Lopez-Paz & Ranzato, 2017)",
    "forward transfer = 1/(n−1) · Σ over j > 1 of (aⱼ₋₁,ⱼ − a₀ⱼ), higher is better (ibid., against the base)",
    "new task score = 1/n · Σⱼ aⱼⱼ, plasticity: the learning accuracy of Riemer et al., 2019",
    "gain kept = Σ over j < n of (aₙⱼ − a₀ⱼ) / Σ over j < n of (aⱼⱼ − a₀ⱼ), higher is better",
    "prior suite: mean score after the last stage over the tasks in eval.general for which higher is better; its "
    "change: since the base",
    "seconds: training time over the stages that the run depends on; peak MiB: the largest of these stages; stored "
    "examples: of past tasks; L2 from anchor: the distance of the last stage's model from the one before it.",
]


def finished(runs: Sequence[SweepRun]) -> list[LabelledRun]:
    """The results of the runs that have finished."""
    return [(run.label, read_scored(run.folder)) for run in runs if has_results(run.folder)]


def figures(run: Results) -> dict[str, float]:
    """A run's metrics, if it has any, and its costs, by the names in :data:`DIGITS`."""
    stages = run["stages"]
    metrics = {name.replace("_", " "): value for name, value in named_metrics(run)}
    suite = [pair for name, pair in general_scores(run).items() if name not in _lower_is_better(run)]
    if suite:
        metrics |= {name: statistics.fmean(pair[i] for pair in suite) for i, name in enumerate(GENERAL)}
    return metrics | {
        "seconds": sum(stage["seconds"] for stage in stages),
        "peak MiB": max(stage["peak_bytes"] for stage in stages) / 2**20,
        "stored examples": max(stage["stored_examples"] for stage in stages),
        "L2 from anchor": stages[-1]["l2_from_anchor"],
    }


def _lower_is_better(run: Results) -> set[str]:
    """Tasks of the prior suite whose score is better if lower."""
    return {row["evaluation"] for row in run.get("general", []) if row.get("lower_is_better")}


def table(runs: Sequence[LabelledRun], baseline: str | None = None) -> str:
    """Markdown: a row per label, mean ± half a 95 % interval over its seeds and orders, the best average first; then,
    with a ``baseline``, :func:`differences`."""
    notes = "\n".join(f"- {formula}" for formula in FORMULAS)
    lines = cells.markdown([head(runs), *rows(runs)])
    text = f"{lines}\n\n{INTERVALS}\n\n{notes}"
    if baseline is None:
        return text
    return f"{text}\n\n{_about_differences(baseline)}\n\n{cells.markdown(differences(runs, baseline))}"


def terminal_table(runs: Sequence[LabelledRun], width: int, baseline: str | None = None) -> str:
    """:func:`table` for a terminal of ``width`` characters."""
    text = f"{cells.plain([head(runs), *rows(runs)], width)}\n\n{cells.paragraphs([INTERVALS, *FORMULAS], width)}"
    if baseline is None:
        return text
    compared = cells.plain(differences(runs, baseline), width)
    return f"{text}\n\n{cells.paragraphs([_about_differences(baseline)], width)}\n\n{compared}"


def _about_differences(baseline: str) -> str:
    return f"Less {baseline}, paired by seed and order of tasks: mean [95 % interval], the number of pairs."


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
            if all(name in figures for figures in per_run)
        }
        score_cells = {name: format_mean_interval([final[name] for final in finals], 3) for name in _evaluations(runs)}
        mean = statistics.fmean(f.get("average", math.nan) for f in per_run)
        worse = mean if is_loss(group[0]) else -mean
        line = [label, *({**summary_cells, **score_cells}.get(name, "–") for name in _columns(runs))]
        ranked.append((math.inf if math.isnan(worse) else worse, line))
    return [line for _, line in sorted(ranked, key=lambda pair: pair[0])]


def differences(runs: Sequence[LabelledRun], baseline: str) -> list[list[str]]:
    """Cells of the differences to the label ``baseline``, header first, in the order of :func:`rows`: metrics and final
    scores of the runs with the same seed and order of tasks, mean and 95 % interval over these pairs."""
    by_label: dict[str, dict[tuple[int | str, ...], dict[str, float]]] = {}
    for label, run in runs:
        values = {name: value for name, value in figures(run).items() if name in COMPARED} | scores(run, -1)
        by_label.setdefault(label, {})[run["seed"], *(task["name"] for task in run["config"]["tasks"])] = values
    columns = [name for name in _columns(runs) if name in (*COMPARED, *_evaluations(runs))]
    base = by_label.get(baseline, {})
    lines = [[name if name != "average" else _average(runs) for name in ["method", *columns, "pairs"]]]
    for label, *_ in rows(runs):
        pairs = [(values, base[repeat]) for repeat, values in by_label[label].items() if repeat in base]
        if label != baseline:
            lines.append([label, *(_difference(pairs, name) for name in columns), str(len(pairs))])
    return lines


def _difference(pairs: Sequence[tuple[dict[str, float], dict[str, float]]], name: str) -> str:
    if not pairs or not all(name in values for pair in pairs for values in pair):
        return "–"
    mean, half = mean_interval([ours[name] - theirs[name] for ours, theirs in pairs])
    return f"{mean:+.3f}" + (f" [{mean - half:+.3f}, {mean + half:+.3f}]" if len(pairs) > 1 else "")


def _columns(runs: Sequence[LabelledRun]) -> list[str]:
    """Those of metrics that results of older releases lack, and of the prior suite, if a run has them."""
    known = {name for _, run in runs for name in figures(run)}
    costs = [name for name in DIGITS if name not in METRICS + GENERAL]
    metrics = [name for name in METRICS if name in known or name in METRICS[:3]]
    return [*metrics, *_evaluations(runs), *(name for name in GENERAL if name in known), *costs]


def _average(runs: Sequence[LabelledRun]) -> str:
    """The header of the column of averages."""
    kinds = {average_name(run) for _, run in runs}
    return kinds.pop() if len(kinds) == 1 else "average, or average loss"


def _evaluations(runs: Sequence[LabelledRun]) -> list[str]:
    """Evaluations that have a column: all, or none if there are too many."""
    names = [name for name in base_scores(runs[0][1]) if all(name in scores(run, -1) for _, run in runs)]
    return names if len(names) <= FEW else []
