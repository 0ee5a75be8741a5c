"""Runs a config: every stage of its plan, then the results."""

from pathlib import Path

from composer.utils import dist
from rich.console import Console

from sfa import config as configs
from sfa import runs
from sfa.config import ConfigError
from sfa.config.schema import Config
from sfa.errors import UsageError
from sfa.families import models
from sfa.parallel import join
from sfa.records import Manifest, Results, Score
from sfa.stages import results, stage
from sfa.stages.callbacks import Evaluator, score_text
from sfa.stages.context import Context
from sfa.stages.describe import check_disk
from sfa.stages.plan import Stage, in_order, plan
from sfa.store import DamagedStage


def run(config: Config, evaluator: Evaluator, console: Console) -> Results:
    """Makes the stages that are not on disk yet, evaluates them, and writes ``results.json``.

    Returns:
        The content of ``results.json``.

    Raises:
        Interrupted: a signal stopped it; calling again goes on from there.
        DamagedStage: a finished stage's files were changed.
        ConfigError: something of the config shows to be wrong with the data at hand.
        ModelError: the model does not fit its tokenizer or what it is asked to do.
        OSError: there is too little room for what is to be made, or it cannot be written.
    """
    join()
    context = Context.of(config, evaluator, console)
    if dist.get_global_rank() == 0:
        check_disk(config)
    for line in config.deprecations:
        console.print(line)
    setting = config.block.neutral_setting()
    if setting is not None:
        console.print(f"{setting} leaves the weights as method=sequential makes them")
    shown = {part.fingerprint: part for part in plan(config)}
    manifests, scores = [], []
    for part in in_order(shown.values()):
        manifest = _make(part, config, context)
        if part.fingerprint in shown:
            manifests.append(manifest)
            scores.append(stage.scores(part, context))
            console.print(_line(part.label, scores[-1]))
    content = results.assemble(config, list(shown.values()), manifests, scores, evaluator.lower_is_better)
    if dist.get_global_rank() == 0:
        folder = runs.run_folder(config.save_folder, config.name)
        _tell_replaced(folder, content, console)
        runs.write_results(folder, content)
    dist.barrier()
    return content


def make_only(config: Config, evaluator: Evaluator, console: Console) -> None:
    """Makes and, if the run shows it, evaluates the stage that ``config.only`` names; what it needs must be there.

    Raises:
        Interrupted: a signal stopped it; calling again goes on from there.
        DamagedStage: a stage that it needs is not there, or was changed.
        ConfigError: it is no stage of this run.
    """
    join()
    context = Context.of(config, evaluator, console)
    shown = plan(config)
    needed = {part.fingerprint: part for part in in_order(shown)}
    if config.only not in needed:
        raise ConfigError("only", [f"only: {config.only} is not a stage of this run (allowed: {', '.join(needed)})"])
    part = needed[config.only]
    _make(part, config, context)
    if any(part.fingerprint == one.fingerprint for one in shown):
        console.print(_line(part.label, stage.scores(part, context)))


def _make(part: Stage, config: Config, context: Context) -> Manifest:
    """The manifest of a stage; what all stages come from is checked before anything is trained from it."""
    manifest = stage.make(part, context)
    if part.parent is None:
        longest = max(config.train_of(task).seq_len for task in config.tasks)
        models.check(context.model(part), longest, config.model.layout)
    return manifest


def _tell_replaced(folder: Path, content: Results, console: Console) -> None:
    """Says so if the results of another config, of the same name, are about to be replaced."""
    file = runs.results_file(folder)
    if runs.has_results(folder):
        try:
            replaced = runs.read_results(folder)["config"]
        except (UsageError, DamagedStage):
            console.print(f"{file} was torn or damaged and is written again")
            return
        old, new = configs.flat(replaced), configs.flat(content["config"])
        differs = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differs:
            console.print(
                f"{file} is replaced; that run had another {', '.join(differs)}. "
                "To keep both, give each a name=… of its own; no stage is lost."
            )


def _line(label: str, scores: list[Score]) -> str:
    return f"after {label}: " + "  ".join(map(score_text, scores))
