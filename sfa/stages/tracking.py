"""A finished run as one run of its trackers, next to those of its trainings: the matrix of scores and the merges as
tables, and the scores, the distances and β over the steps of the whole stream, where runs can be compared."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from composer.core import Engine, Event, State
from composer.loggers import Logger, LoggerDestination
from composer.utils import get_device
from torch import nn

from sfa.config.schema import Config
from sfa.methods import METHODS
from sfa.records import Manifest, Results
from sfa.stages.results import named_metrics
from sfa.values import Overrides, flat

MERGE = ("beta", "l2_before", "l2_after")
MOST_PARAMETERS = 100  # that MLflow takes at once


def track(
    config: Config,
    results: Results,
    manifests: Sequence[Manifest],
    folder: Path,
    destinations: Sequence[LoggerDestination],
) -> None:
    """Logs a run to Composer's loggers, outside of a training. All ranks call it.

    Args:
        config: the run's config.
        results: the content of its ``results.json``.
        manifests: those of the stages in ``results``.
        folder: the run's folder.
        destinations: loggers that were not used yet; they are closed.
    """
    if not destinations:
        return
    state = State(nn.Module(), config.seed, config.name, get_device("cpu"), callbacks=list(destinations))
    logger = Logger(state, destinations)
    engine = Engine(state, logger)
    engine.run_event(Event.INIT)
    try:
        settings = iter(_settings(results).items())
        while some := dict(islice(settings, MOST_PARAMETERS)):
            logger.log_hyperparameters(some)
        merges, steps = _merges(results, manifests), _scores_over_steps(results, folder)
        for _, _, total, *values in merges:
            steps[total] |= {f"merge/{key}": v for key, v in zip(MERGE, values, strict=True) if v is not None}
        end = sum(stage["steps"] for stage in results["stages"])
        steps[end] |= {f"metrics/{name}": value for name, value in named_metrics(results)}
        for step in sorted(steps):
            logger.log_metrics(steps[step], step)
        logger.log_table(*_matrix(config, results), name="scores", step=end)
        if merges:
            logger.log_table(["stage", "step", "step of the stream", *MERGE], merges, name="merges", step=end)
    finally:
        engine.close()


def _settings(results: Results) -> Overrides:
    """The config's keys and values, without nulls and the settings of methods that it does not use."""
    config: Any = results["config"]
    unused = METHODS.keys() - {config["method"]}
    settings = flat({key: value for key, value in config.items() if key not in unused})
    return {key: value for key, value in settings.items() if value is not None}


def _scores_over_steps(results: Results, folder: Path) -> defaultdict[int, dict[str, float]]:
    """The scores of each evaluation by the step of the stream."""
    from sfa.curves import curves  # matplotlib, half a second to import

    metric = {row["evaluation"]: row["metric"] for row in results["evaluations"]}
    by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for name, points in curves(folder)[0].items():
        for step, value in points:
            by_step[step][f"stream/{name}/{metric[name]}"] = value
    return by_step


def _merges(results: Results, manifests: Sequence[Manifest]) -> list[list[Any]]:
    """A row for each merge: its stage, its step there and in the stream, and its β and distances as far as they are
    recorded; of a merge after the training, that is the distance after it."""
    rows: list[list[Any]] = []
    stages = results["stages"]
    starts = accumulate((stage["steps"] for stage in stages), initial=0)
    for start, stage, manifest in zip(starts, stages, manifests, strict=False):
        made: list[Any] = list(manifest["merges"])
        if not made:
            made = [{"step": step, "l2_after": stage["l2_from_anchor"]} for step in stage["merge_steps"]]
        rows += [[stage["task"], m["step"], start + m["step"], *(m.get(key) for key in MERGE)] for m in made]
    return rows


def _matrix(config: Config, results: Results) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the score matrix: a row for each evaluation, also of the prior suite, and a column for each
    stage."""
    tasks = {name: task.name for task in config.tasks for name in (*task.evals, *task.declared())}
    tasks |= {row["evaluation"]: "prior suite" for row in results.get("general", [])}
    scores = [*results["evaluations"], *results.get("general", [])]
    stages = list(dict.fromkeys(row["after"] for row in scores))
    metrics = {row["evaluation"]: row["metric"] for row in scores}
    values = {(row["evaluation"], row["after"]): row["value"] for row in scores}
    rows = [
        [tasks.get(e, "prior suite"), e, metrics[e], *(values.get((e, after)) for after in stages)] for e in metrics
    ]
    return ["task", "evaluation", "metric", *(f"after {stage}" for stage in stages)], rows
