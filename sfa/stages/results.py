"""The evaluation matrix of a run, its metrics, and the file that holds them."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from sfa.config.schema import Config
from sfa.records import GENERAL, SCHEMA, FinalScore, Manifest, Metrics, Results, Score, StageRecord
from sfa.stages.plan import Stage
from sfa.stages.score_lines import in_lines

METRICS = ("average", "forgetting", "backward_transfer", "forward_transfer", "new_task_score", "gain_kept")


def metrics(base: NDArray[np.float64], matrix: NDArray[np.float64]) -> Metrics:
    """Summary of a stream of n tasks.

    Args:
        base: ``[n]``, scores of the model before the stream.
        matrix: ``[stages, n]``, one stage per task or one for all: ``matrix[i, j]`` is the score on task j after stage
            i; higher is better.

    Returns:
        ``average``: mean score over tasks after the last stage.
        ``forgetting``: mean over all tasks but the last of the best score at any earlier point, less the final one
        (Chaudhry et al., 2018, with the base as a point).
        ``backward_transfer``: mean over all tasks but the last of the final score, less that right after the task's
        own stage (Lopez-Paz & Ranzato, 2017).
        ``forward_transfer``: mean over all tasks but the first of the score right before the task's own stage, less
        that of the base (ibid.). All three are 0 after a single stage.
        ``new_task_score``: mean over tasks of the score right after the task's own stage (the learning accuracy of
        Riemer et al., 2019): plasticity.
        ``gain_kept``: over all tasks but the last, the sum of final scores less the base's, divided by the sum of
        those right after the task's own stage less the base's; absent if nothing was gained.
    """
    final = matrix[-1]
    if len(matrix) == 1:
        mean = float(final.mean())
        transfers = {"forgetting": 0.0, "backward_transfer": 0.0, "forward_transfer": 0.0}
        return cast(Metrics, {"average": mean, **transfers, "new_task_score": mean})
    best = np.vstack([base, matrix[:-1]]).max(0)[:-1]
    learned = np.diag(matrix)
    summary: Metrics = {
        "average": float(final.mean()),
        "forgetting": float((best - final[:-1]).mean()),
        "backward_transfer": float((final - learned)[:-1].mean()),
        "forward_transfer": float((np.diag(matrix, 1) - base[1:]).mean()),
        "new_task_score": float(learned.mean()),
    }
    gain = float((learned - base)[:-1].sum())
    if gain > 0:
        summary["gain_kept"] = float((final - base)[:-1].sum()) / gain
    return summary


def assemble(
    config: Config,
    stages: Sequence[Stage],
    manifests: Sequence[Manifest],
    scores: Sequence[Sequence[Score]],
    lower_is_better: Callable[[str], bool],
) -> Results:
    """The content of ``results.json``.

    Args:
        config: the run's config.
        stages: the evaluated stages in order, the base first.
        manifests: the manifest of each stage.
        scores: the final scores of each stage.
        lower_is_better: whether lower scores of a named evaluation are better.
    """
    names = [stage.label for stage in stages]
    rows: list[FinalScore] = [
        {"after": after, **score} for after, of_stage in zip(names, scores, strict=True) for score in of_stage
    ]
    starts_tuned = config.model.base is not None and config.from_run is None
    general: list[FinalScore] = [
        {**row, "evaluation": row["evaluation"].removeprefix(GENERAL)} for row in rows if _is_general(row)
    ]
    task_scores = [[task_score(of_stage, task.evals, lower_is_better) for task in config.tasks] for of_stage in scores]
    results: Results = {
        "schema": SCHEMA,
        "name": config.name,
        "config": config.conceal(config.model_dump(mode="json")),
        "seed": config.seed,
        "stages": [_record(stage, manifest) for stage, manifest in zip(stages, manifests, strict=True) if stage.parent],
        "evaluations": [row for row in rows if not _is_general(row)],
        "metrics": summarize(
            task_scores,
            [not task.evaluate_only for task in config.tasks],
            len(config.learned_before()) if starts_tuned else 0,
            starts_tuned,
        ),
        "arguments": config.arguments,
    }
    if general:
        results["general"] = general
    return results


def _is_general(row: Score) -> bool:
    return row["evaluation"].startswith(GENERAL)


def _record(stage: Stage, manifest: Manifest) -> StageRecord:
    return {
        "task": stage.label,
        "method": stage.method_name,
        "fingerprint": manifest["fingerprint"],
        "steps": manifest["steps"],
        "merge_steps": manifest["merge_steps"],
        "l2_from_anchor": manifest["l2_from_anchor"],
        "seconds": manifest["seconds"],
        "tokens": manifest["tokens"],
        "peak_bytes": manifest["peak_bytes"],
        "stored_examples": manifest["stored_examples"],
    }


def task_score(
    scores: Sequence[Score], names: Sequence[str], lower_is_better: Callable[[str], bool]
) -> tuple[str, float] | None:
    """A task's score: the mean over its evaluations, or over its losses if it has no others, with its
    kind. ``None`` if the run leaves out one of the evaluations."""
    by_name = {score["evaluation"]: score for score in scores}
    kinds = {name: "loss" if lower_is_better(name) else "score" for name in names}
    kind = "score" if "score" in kinds.values() else "loss"
    counted = [name for name in names if kinds[name] == kind]
    if not counted or not by_name.keys() >= set(counted):
        return None
    return kind, float(np.mean([by_name[name]["value"] for name in counted]))


def summarize(
    scores: list[list[tuple[str, float] | None]],
    trained: Sequence[bool],
    learned_before: int = 0,
    starts_tuned: bool = False,
) -> Metrics | None:
    """The metrics of a stream, or ``None`` if a task has no score, or only some scores are losses.

    Forgetting and transfers of losses are those of the negated losses, so that positive forgetting is always a decline;
    the average and the score of new tasks are mean losses themselves.

    Args:
        scores: ``[1 + stages][tasks]``, ``("score" or "loss", value)``; the first is the base's.
        trained: whether each task is trained. A task that is held back counts only in the average.
        learned_before: how many of the first tasks the tuned model has learned; they count as trained, by its stage.
        starts_tuned: whether the second row is that of a tuned model.
    """
    complete = [[score for score in row if score is not None] for row in scores]
    kinds = {kind for row in complete for kind, _ in row}
    if len(kinds) != 1 or any(len(row) < len(scores[0]) for row in complete):
        return None
    sign = -1.0 if kinds == {"loss"} else 1.0
    matrix = sign * np.array([[value for _, value in row] for row in complete])
    counted = matrix[:, np.array([i < learned_before or is_trained for i, is_trained in enumerate(trained)])]
    base, tuned, stages = counted[0], counted[1:2], counted[1:]
    if starts_tuned:
        base = base if learned_before else tuned[0]  # without tasks of its own it is the point to start from
        of_one_task_each = len(counted[2:]) == counted.shape[1] - learned_before
        stages = np.vstack([*[tuned] * learned_before, counted[2:]]) if of_one_task_each else counted[2:]
    summary = metrics(base, stages)
    summary["average"] = float(sign * matrix[-1].mean())
    summary["new_task_score"] *= sign
    return summary


def is_loss(results: Results) -> bool:
    """Whether a run's ``average`` is of losses, so that lower is better: all evaluations of its tasks are losses."""
    losses = {row["evaluation"] for row in results["evaluations"] if row.get("lower_is_better")}
    names = {name for task in results["config"]["tasks"] for name in task["evals"]}
    return bool(names) and names <= losses


def average_name(results: Results) -> str:
    """The displayed name of a run's average."""
    return "average loss" if is_loss(results) else "average"


def matrix_text(results: Results, width: int | None = None) -> str:
    """The matrix of stages × evaluations as a plain table, with the metrics below it, and that of the prior suite. A
    table that is wider than ``width`` has a row for each evaluation."""
    distances = {stage["task"]: f"{stage['l2_from_anchor']:.3f}" for stage in results["stages"]}
    table = _table(results["evaluations"], {"L2 from anchor": distances}, width)
    summary = {average_name(results) if key == "average" else key: value for key, value in named_metrics(results)}
    texts = [table, in_lines([f"{k} {v:.3f}" for k, v in summary.items()] or [""], width)]
    if general := results.get("general"):
        changes = [f"{name} {change:+.3f}" for name, (_, change) in general_scores(results).items()]
        suite = in_lines(["change since the base:", *changes], width)
        texts += ["", "prior suite", _table(general, {}, width), suite]
    return "\n".join(texts)


def _table(rows: Sequence[FinalScore], more: Mapping[str, Mapping[str, str]], width: int | None) -> str:
    """Stages × evaluations as a plain table, with ``more`` columns by stage; the other way round if it is wider than
    ``width``."""
    columns = list(dict.fromkeys(row["evaluation"] for row in rows))
    kinds = {row["evaluation"]: row["metric"] for row in rows}
    values = {(row["after"], row["evaluation"]): row["value"] for row in rows}
    header = ["after", *(f"{name} ({kinds[name]})" for name in columns), *more]
    lines = [
        [
            after,
            *(_cell(values.get((after, name))) for name in columns),
            *(cells.get(after, "") for cells in more.values()),
        ]
        for after in dict.fromkeys(row["after"] for row in rows)
    ]
    cells = [header, *lines]
    table: str = tabulate(cells, tablefmt="plain", disable_numparse=True)
    if width is not None and max(map(len, table.splitlines())) > width:
        table = tabulate(zip(*cells, strict=True), tablefmt="plain", disable_numparse=True)
    return table


def _cell(value: float | None) -> str:
    """A score; a dash if the task's data are gone."""
    return "–" if value is None else f"{value:.3f}"


def named_metrics(results: Results) -> list[tuple[str, float]]:
    """A run's metrics by name; empty if it has none."""
    values = results["metrics"]
    if values is None:
        return []
    present = {key: value for key, value in values.items() if isinstance(value, float)}
    return [(key, present[key]) for key in METRICS if key in present]


def general_scores(results: Results) -> dict[str, tuple[float, float]]:
    """The scores on the prior suite after the last stage, by task, each with its change since the base."""
    values = {(row["after"], row["evaluation"]): row["value"] for row in results.get("general", [])}
    last = results["stages"][-1]["task"]
    return {name: (value, value - values["base", name]) for (after, name), value in values.items() if after == last}
