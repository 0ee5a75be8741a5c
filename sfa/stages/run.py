"""Runs a config: every stage of its plan, then the results."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from composer.utils import dist
from rich.console import Console

from sfa import runs
from sfa.config import ConfigError, loggers
from sfa.config.schema import Config
from sfa.data import Conversations, Custom
from sfa.data.overlap import overlap
from sfa.data.source import usable
from sfa.errors import UsageError
from sfa.models import stored
from sfa.models.settings import TUNED
from sfa.parallel import join
from sfa.records import Manifest, Results, Score
from sfa.stages import results, stage
from sfa.stages.callbacks import Evaluator
from sfa.stages.context import Context
from sfa.stages.describe import check_disk
from sfa.stages.plan import Stage, plan, topological_order
from sfa.stages.score_lines import Scores, stage_line, width_of
from sfa.stages.tracking import track
from sfa.store import DamagedStage
from sfa.values import flat


def run(config: Config, evaluator: Evaluator, console: Console) -> Results:
    """Makes the stages that are not on disk yet, evaluates them, and writes ``results.json``.

    Returns:
        The content of ``results.json``.

    Raises:
        Interrupted: a signal stopped it; calling again resumes it.
        DamagedStage: a finished stage's files were changed.
        ConfigError: a setting is invalid for the data.
        ModelError: the model does not fit its tokenizer or the run's settings.
        OSError: there is not enough disk space, or a file cannot be written.
    """
    join()
    context = Context.of(config, evaluator, console)
    if dist.get_global_rank() == 0:
        check_disk(config)
    for line in config.deprecations:
        console.print(line)
    if (notice := config.method_settings.neutral_notice()) is not None:
        console.print(notice)
    evaluated = {planned.fingerprint: planned for planned in plan(config)}
    _check_rows(config, evaluated.values(), console)
    manifests, scores = [], []
    known: dict[str, Scores] = {}
    for planned in topological_order(evaluated.values()):
        manifest = _make(planned, config, context)
        if planned.fingerprint in evaluated:
            manifests.append(manifest)
            scores.append(stage.scores(planned, context))
            if scores[-1]:
                console.print(_line(config, planned.label, scores[-1], known, width_of(console)))
            known[planned.label] = {score["evaluation"]: score for score in scores[-1]}
    content = results.assemble(config, list(evaluated.values()), manifests, scores, evaluator.lower_is_better)
    folder = runs.run_folder(config.save_folder, config.name)
    if dist.get_global_rank() == 0:
        _report_replaced(folder, content, console)
        runs.write_results(folder, content)
        shutil.rmtree(runs.tracked(folder), ignore_errors=True)
    dist.barrier()
    of_stages = [manifest for manifest in manifests if manifest["parent"] is not None]
    track(config, content, of_stages, folder, loggers.of_run(config, runs.tracked(folder)))
    return content


def make_only(config: Config, evaluator: Evaluator, console: Console) -> None:
    """Makes the stage that ``config.only`` names, and evaluates it if the run does; its dependencies must exist.

    Raises:
        Interrupted: a signal stopped it; calling again resumes it.
        DamagedStage: a stage that it depends on does not exist, or was changed.
        ConfigError: the run has no such stage.
    """
    join()
    context = Context.of(config, evaluator, console)
    evaluated = plan(config)
    stages = {planned.fingerprint: planned for planned in topological_order(evaluated)}
    if config.only not in stages:
        raise ConfigError("only", [f"only: {config.only} is not a stage of this run (allowed: {', '.join(stages)})"])
    selected = stages[config.only]
    _make(selected, config, context)
    if any(selected.fingerprint == planned.fingerprint for planned in evaluated):
        console.print(stage_line(selected.label, stage.scores(selected, context), width=width_of(console)))


def _check_rows(config: Config, evaluated: Iterable[Stage], console: Console) -> None:
    """Reads the texts of all tasks before the first one is trained, as their trainings may be hours apart, and reports
    held-out rows that are trained on.

    Raises:
        SourceError: rows cannot be used.
    """
    if all(runs.is_made(runs.stage_folder(config.save_folder, planned.fingerprint)) for planned in evaluated):
        return
    for task in config.tasks:
        if isinstance(task, Custom | Conversations) and task.name in config.trained():
            line = overlap(usable(task.rows("train"), task.name), task.rows("test"), task.name)
            if line is not None:
                console.print(line)


def _make(planned: Stage, config: Config, context: Context) -> Manifest:
    """Makes a stage and returns its manifest; the base is checked before anything is trained from it."""
    manifest = stage.make(planned, context)
    if planned.parent is None:
        longest = max(config.train_of(task).seq_len for task in config.tasks)
        stored.check(context.model(planned), longest, config.model.layout)
    return manifest


def _report_replaced(folder: Path, content: Results, console: Console) -> None:
    """Prints a notice if the results of another config with the same name are about to be replaced."""
    file = runs.results_file(folder)
    if runs.has_results(folder):
        try:
            replaced = runs.read_results(folder)["config"]
        except (UsageError, DamagedStage):
            console.print(f"{file} was torn or damaged and is written again")
            return
        old, new = flat(replaced), flat(content["config"])
        differences = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differences:
            console.print(
                f"{file} is replaced; that run had another {', '.join(differences)}. "
                "To keep both, give each its own name=…; no stage is lost."
            )


def _line(config: Config, label: str, scores: list[Score], known: Mapping[str, Scores], width: int | None) -> str:
    """A stage's scores, against those of the stages before it, the base first."""
    labels = list(known)
    if len(labels) < 2 or TUNED in labels[-1:]:
        return stage_line(label, scores, known[labels[-1]] if labels else None, width=width)
    first = (config.learned_before() or config.trained())[:1]
    own = known.get(TUNED) or known.get(first[0] if first else "")
    names = {name for task in config.tasks if task.name in first for name in (*task.evals, *task.declared())}
    base = {name: score for name, score in known[labels[0]].items() if name in names}
    return stage_line(label, scores, known[labels[-1]], (base, own) if own is not None else None, width)
