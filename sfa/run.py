"""Runs a config: every stage of its plan, then the results."""

from typing import Any

from composer.utils import dist, get_device
from rich.console import Console

from sfa import results, stage, store
from sfa.callbacks import Evaluator
from sfa.config import Config
from sfa.plan import plan


def run(config: Config, evaluator: Evaluator, console: Console) -> dict[str, Any]:
    """Makes the stages that are not on disk yet, evaluates them, and writes ``results.json``.

    Returns:
        The content of ``results.json``.

    Raises:
        Interrupted: a signal stopped it; calling again goes on from there.
        DamagedStage: a finished stage's files were changed.
    """
    dist.initialize_dist(get_device(None))
    context = stage.Context(config, evaluator, console)
    manifests, scores = [], []
    for part in plan(config):
        manifests.append(stage.make(part, context))
        scores.append(stage.scores(part, context))
        console.print(_line(part.label, scores[-1]))
    content = results.assemble(config, manifests, scores)
    folder = config.save_folder / config.name
    if dist.get_global_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        store.write_json(folder / "results.json", content)
    dist.barrier()
    return content


def _line(label: str, scores: list[Any]) -> str:
    return f"after {label}: " + "  ".join(f"{s['task']} {s['value']:.3f}" for s in scores)
