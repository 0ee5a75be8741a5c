"""Makes one stage, or finds it on disk: the base is built, a task is trained."""

import contextlib
import gc
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist, get_device
from filelock import Timeout
from rich.console import Console

from sfa import machine, methods, models, store, weights
from sfa.callbacks import Evaluator, Score
from sfa.composer_model import StageModel
from sfa.context import Context
from sfa.data.prepare import preparer
from sfa.fisher import diagonal
from sfa.kinds import is_encoder_decoder
from sfa.plan import Stage
from sfa.schema import FisherMerging
from sfa.training import train


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
        for source in (*([stage.parent] if stage.parent else []), *stage.sources):
            store.verify(context.folder(source))
        if stage.parent is None:
            record, rows = _base(context, folder)
        elif stage.sources:
            record, rows = _merge(stage, context), []
        else:
            record, rows = train(stage, context)
        if dist.get_global_rank() == 0:
            store.write_json(folder / "evaluations.json", _keyed(rows, context.evaluator, record["steps"]))
            store.finish(folder, _manifest(stage, record))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        dist.barrier()
    gc.collect()  # trainers hold themselves
    made = store.manifest(folder)
    assert made is not None, "it was just written"
    return made


def scores(stage: Stage, context: Context) -> list[Score]:
    """The final scores of a finished stage on the run's evaluations; what is not on disk yet is evaluated now.

    Raises:
        DamagedStage: the model that is to be evaluated is not the one that was written.
    """
    folder = context.folder(stage)
    evaluator = context.evaluator
    known = {row["key"]: row for row in read_rows(folder) if row["final"]}
    missing = [name for name in evaluator.names if evaluator.key(name) not in known]
    if missing:
        store.verify(folder)
        model = models.read_model(folder / "model").eval()
        if torch.cuda.is_available():
            model = model.cuda()
        processor = models.read_processor(folder / "model")
        fresh = _keyed([{"step": 0, **score} for score in evaluator(model, processor, missing)], evaluator, final=0)
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
    return list(store.read_json(file)) if file.is_file() else []


def _base(context: Context, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Builds or downloads the model that the stream starts from, and keeps it like any other stage."""
    if dist.get_global_rank() == 0:
        config = context.config
        model, processor = models.build(config.model, config.seed, config.tokenizer_tasks(), config.classes())
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
    return {"steps": 0}, []


def _merge(stage: Stage, context: Context) -> dict[str, Any]:
    """Merges on rank 0. The cost of a stage that merges is that of the last training it needed, and of the merge."""
    assert stage.parent is not None
    if dist.get_global_rank() != 0:
        return {"steps": 0}
    trained = store.manifest(context.folder(stage.sources[-1]))
    assert trained is not None, "it was made before"
    start = time.perf_counter()
    methods.merge(stage, context, lambda source, block: _fisher_of(source, block, context))
    record = {key: trained[key] for key in ("steps", "tokens", "peak_bytes", "stored_examples", "stored_bytes")}
    seconds = time.perf_counter() - start
    record |= {"seconds": round(trained["seconds"] + seconds, 3), "merge_seconds": round(seconds, 3), "merges": []}
    record["merge_steps"] = [trained["steps"]] if stage.spec["method"]["name"] == "average" else []
    record["l2_from_anchor"] = weights.distance(context.model(stage), context.model(stage.parent))
    return record


def _fisher_of(source: Stage, block: FisherMerging, context: Context) -> Path:
    """The Fisher information of a single-task model on its task, made if it is not there; one process, whole model."""
    folder = methods.fisher_folder(source, block, context)
    if not folder.is_dir():
        config = context.config
        processor, model = models.read_processor(context.model(source)), models.read_model(context.model(source))
        device = get_device(None)
        wrapped = device.module_to_device(StageModel(model.eval(), processor))
        (task,), pairs = source.tasks, is_encoder_decoder(model.config)
        data = preparer(processor, pairs, config.train_of(task).seq_len, config.model.template)
        moved = (device.batch_to_device(example) for example in data.examples(task, block.examples, config.seed))
        shards = diagonal(wrapped, moved, block.labels, config.seed)
        weights.write_alone(wrapped, shards, folder)
    return store.unsealed(folder)


def _manifest(stage: Stage, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "fingerprint": stage.fingerprint,
        "task": stage.label,
        "method": stage.method,
        "parent": stage.parent.fingerprint if stage.parent else None,
        **record,
        "spec": stage.spec,
        "made": {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": machine.hardware(),
            "ranks": dist.get_world_size(),
            "torch": torch.__version__,
        },
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
