"""Makes one stage, or finds it on disk: the base is built, a task is trained."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist
from filelock import Timeout
from rich.console import Console

from sfa import machine, models, store
from sfa.callbacks import Evaluator, Score
from sfa.config import Config
from sfa.plan import Stage
from sfa.training import train


@dataclass
class Context:
    """What all stages of a run share."""

    config: Config
    evaluator: Evaluator
    console: Console

    def folder(self, stage: Stage) -> Path:
        return self.config.save_folder / "stages" / stage.fingerprint


def make(stage: Stage, context: Context) -> dict[str, Any]:
    """Returns the manifest of a stage, making the stage first if no finished one is on disk.

    Raises:
        Interrupted: a signal stopped the training, after a checkpoint; calling again goes on from there.
        DamagedStage: the parent's files are not those its manifest lists.
    """
    folder = context.folder(stage)
    with _alone(folder, context.console):
        made = store.manifest(folder)
        if made is not None:
            return made
        folder.mkdir(parents=True, exist_ok=True)
        if stage.parent is None:
            record, rows = _base(context, folder)
        else:
            parent = context.folder(stage.parent)
            store.verify(parent)
            record, rows = train(stage, context.config, context.evaluator, parent, folder, context.console)
        if dist.get_global_rank() == 0:
            store.write_json(folder / "evaluations.json", _keyed(rows, context.evaluator, record["steps"]))
            store.finish(folder, _manifest(stage, record))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        dist.barrier()
    made = store.manifest(folder)
    assert made is not None, "it was just written"
    return made


def scores(stage: Stage, context: Context) -> list[Score]:
    """The final scores of a finished stage on the run's evaluations; what is not on disk yet is evaluated now."""
    folder = context.folder(stage)
    evaluator = context.evaluator
    known = {row["key"]: row for row in read_rows(folder) if row["final"]}
    missing = [name for name in evaluator.names if evaluator.key(name) not in known]
    if missing:
        model = models.read_model(folder / "model").eval()
        if torch.cuda.is_available():
            model = model.cuda()
        tokenizer = models.read_tokenizer(folder / "model")
        fresh = _keyed([{"step": 0, **score} for score in evaluator(model, tokenizer, missing)], evaluator, final=0)
        known |= {row["key"]: row for row in fresh}
        if dist.get_global_rank() == 0:
            store.write_json(folder / "evaluations.json", [*read_rows(folder), *fresh])
    found = [known[evaluator.key(name)] for name in evaluator.names]
    return [_score(row) for row in found]


def _score(row: dict[str, Any]) -> Score:
    score = Score(task=row["task"], metric=row["metric"], value=row["value"], stderr=row["stderr"], n=row["n"])
    return Score(**score, majority=row["majority"]) if "majority" in row else score


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All scores kept with a stage: those during its training by ``step``, and the ``final`` ones."""
    file = folder / "evaluations.json"
    return list(json.loads(file.read_text())) if file.is_file() else []


def _base(context: Context, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Builds or downloads the model that the stream starts from, and keeps it like any other stage."""
    if dist.get_global_rank() == 0:
        model, tokenizer = models.build(context.config.model, context.config.seed, context.config.tokenizer_tasks())
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    return {"steps": 0}, []


def _manifest(stage: Stage, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "fingerprint": stage.fingerprint,
        "task": stage.label,
        "method": stage.method,
        "parent": stage.parent.fingerprint if stage.parent else None,
        **record,
        "spec": stage.spec,
        "made": {"date": time.strftime("%Y-%m-%d"), "hardware": machine.hardware(), "torch": torch.__version__},
    }


def _keyed(rows: list[dict[str, Any]], evaluator: Evaluator, final: int) -> list[dict[str, Any]]:
    return [{**row, "key": evaluator.key(row["task"]), "final": row["step"] == final} for row in rows]


@contextlib.contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Holds the stage's lock while all ranks are inside."""
    if dist.get_global_rank() != 0:
        dist.barrier()
        yield
        return
    lock = store.lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another process that makes stage {folder.name}")
        lock.acquire()
    with lock:
        lock.release()  # the context holds it a second time
        dist.barrier()
        yield
