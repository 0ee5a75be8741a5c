"""Makes one stage, or finds it on disk: the base is built, a task is trained."""

import gc
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist, get_device

from sfa import machine, models, store, weights
from sfa.callbacks import Score
from sfa.composer_model import StageModel
from sfa.context import Context
from sfa.data.source import SourceError
from sfa.fisher import diagonal, fisher_folder
from sfa.methods.base import FisherSettings, Sources
from sfa.parallel import exclusively
from sfa.plan import Base, Merge, Stage, Training, in_order, plan
from sfa.results import STAGE_KEYS
from sfa.schema import Config
from sfa.training import train


def make(stage: Stage, context: Context) -> dict[str, Any]:
    """Returns the manifest of a stage, making the stage first if no finished one is on disk.

    Raises:
        Interrupted: a signal stopped the training, after a checkpoint; calling again goes on from there.
        DamagedStage: the parent's files are not those its manifest lists.
        SourceError: the data, or the model that the stream starts from, were changed since the run started.
    """
    folder = context.folder(stage)
    with exclusively(folder, context.console.print):
        made = store.manifest(folder)
        if made is not None:
            _check_manifest(made, stage, folder)
            _tell_versions(made, context)
            return made
        _check_inputs(stage, context)
        folder.mkdir(parents=True, exist_ok=True)
        for needed in stage.needs:
            store.verify(context.folder(needed))
        record, rows = _make(stage, context)
        if dist.get_global_rank() == 0:
            store.write_json(
                folder / "evaluations.json", [{**row, "final": row["step"] == record["steps"]} for row in rows]
            )
            store.finish(folder, _manifest(stage, record, context.config))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        dist.barrier()
    gc.collect()  # trainers hold themselves
    made = store.manifest(folder)
    assert made is not None, "it was just written"
    return made


def _make(stage: Stage, context: Context) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the manifest says of how the stage was made, and scores taken meanwhile."""
    match stage:
        case Base():
            return _build(stage, context), []
        case Merge():
            return _merge(stage, context), []
        case Training():
            return train(stage, context)
    raise TypeError(f"{type(stage).__name__} is no kind of stage")


def _check_inputs(stage: Stage, context: Context) -> None:
    """Plans the run again, from its files as they are now: a stage is kept under the fingerprint of what it was made
    of, or not at all."""
    if not any(stage.fingerprint == part.fingerprint for part in in_order(plan(context.config))):
        raise SourceError(
            f"{stage.label}: its data, or the model that the stream starts from, were changed while the run was going",
            "Nothing of the stage is kept; the same command starts it from what is there now",
        )


def _check_manifest(made: dict[str, Any], stage: Stage, folder: Path) -> None:
    """Raises a DamagedStage if a manifest lacks what is read of it, or is of another stage."""
    wanted = ("fingerprint", "steps", "made", *(STAGE_KEYS if stage.parent is not None else ()))
    missing = [key for key in dict.fromkeys(wanted) if key not in made]
    if missing or not isinstance(made["made"], dict):
        raise store.DamagedStage(f"{folder / 'manifest.json'} lacks {', '.join(missing or ['made'])}")
    if made["fingerprint"] != stage.fingerprint:
        raise store.DamagedStage(f"{folder / 'manifest.json'} is that of the stage {made['fingerprint']}")


def _tell_versions(made: dict[str, Any], context: Context) -> None:
    """Says so if a stage was made with other versions than those that are installed."""
    own, here = made["made"].get("versions", {}), machine.versions()
    differs = [
        f"{name} {version} (here {here.get(name)})" for name, version in own.items() if here.get(name) != version
    ]
    if differs:
        context.tell_once(f"reused stages were made with {', '.join(differs)}")


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
        fresh = [
            {"step": 0, "key": evaluator.key(score["task"]), **score, "final": True}
            for score in evaluator(model, processor, missing)
        ]
        known |= {row["key"]: row for row in fresh}
        _check_inputs(stage, context)
        if dist.get_global_rank() == 0:
            store.write_json(folder / "evaluations.json", [*read_rows(folder), *fresh])
    found = [known[evaluator.key(name)] for name in evaluator.names]
    return [_score(row) for row in found]


def _score(row: dict[str, Any]) -> Score:
    score = Score(task=row["task"], metric=row["metric"], value=row["value"], stderr=row["stderr"], n=row["n"])
    for key in ("majority", "also", "dropped", "cut"):
        if key in row:
            score[key] = row[key]
    return score


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All scores kept with a stage: those during its training by ``step``, and the ``final`` ones.

    Raises:
        DamagedStage: the file that holds them is not the one that was written.
    """
    file = folder / "evaluations.json"
    if not file.is_file():
        return []
    again = "Delete it, and the model is scored again"
    try:
        found = store.read_json(file)
    except store.DamagedStage as error:
        raise store.DamagedStage(error.message, again) from error
    wanted = {"step", "key", "final", "task", "metric", "value", "stderr", "n"}
    if not isinstance(found, list) or not all(isinstance(row, dict) and row.keys() >= wanted for row in found):
        raise store.DamagedStage(f"{file} does not hold a stage's scores", again)
    return found


def _build(stage: Base, context: Context) -> dict[str, Any]:
    """Builds or downloads the model that the stream starts from, and keeps it like any other stage."""
    if dist.get_global_rank() == 0:
        described = stage.model.model_copy(update={"revision": stage.commit}) if stage.commit else stage.model
        model, processor = models.build(
            described, stage.seed or 0, stage.family, stage.tokenizer_tasks, context.console.print
        )
        out = context.model(stage)
        weights.write_model(model, out)
        processor.save_pretrained(out)
    return {"steps": 0}


def _merge(stage: Merge, context: Context) -> dict[str, Any]:
    """Merges on rank 0. The cost of a stage that merges is that of the last training it needed, and of the merge."""
    if dist.get_global_rank() != 0:
        return {"steps": 0}
    trained = store.manifest(context.folder(stage.sources[-1]))
    assert trained is not None, "it was made before"
    start = time.perf_counter()
    out, merger = context.model(stage), stage.merger
    shutil.rmtree(out, ignore_errors=True)  # of a process that ended before the stage had a manifest
    base = None if merger.merge_count is not None else stage.sources[0]
    singles = stage.sources if base is None else stage.sources[1:]
    settings = merger.fisher_settings()
    fishers = [_fisher_of(source, settings, context) for source in singles] if settings is not None else []
    sources = Sources(
        models=[context.model(source) for source in singles],
        base=context.model(base) if base is not None else None,
        fishers=fishers,
        seed=stage.seed or 0,
    )
    merger.merge(sources, out)
    record = {key: trained[key] for key in ("steps", "tokens", "peak_bytes", "stored_examples", "stored_bytes")}
    seconds = time.perf_counter() - start
    record |= {"seconds": round(trained["seconds"] + seconds, 3), "merge_seconds": round(seconds, 3), "merges": []}
    record["merge_steps"] = [trained["steps"]] if base is None else []
    record["l2_from_anchor"] = weights.distance(out, context.model(stage.before))
    return record


def _fisher_of(source: Stage, settings: FisherSettings, context: Context) -> Path:
    """The Fisher information of a single-task model on its task, made if it is not there; one process, whole model."""
    assert isinstance(source, Training), "single-task models are trained"
    folder = fisher_folder(context.folder(source), settings, source.seed)
    with store.lock(folder):
        if not folder.is_dir():
            processor, model = models.read_processor(context.model(source)), models.read_model(context.model(source))
            device = get_device(None)
            wrapped = device.module_to_device(StageModel(model.eval(), processor))
            data = context.array_builder(source.train, processor, model.config)
            drawn = data.examples(source.tasks[0], settings.examples, source.seed)
            shards = diagonal(wrapped, map(device.batch_to_device, drawn), settings.labels, source.seed)
            weights.write_alone(wrapped, shards, folder)
    return store.unsealed(folder)


def _manifest(stage: Stage, record: dict[str, Any], config: Config) -> dict[str, Any]:
    # What a run asks for, a base does not determine: other runs share it.
    layout, train = config.model.layout, config.train
    told = {"template": layout.template, **layout.extras(), "seq_len": train.seq_len, "long_rows": train.long_rows}
    asked = told if stage.parent else {}
    return {
        "fingerprint": stage.fingerprint,
        "task": stage.label,
        "method": stage.method,
        "parent": stage.parent.fingerprint if stage.parent else None,
        **record,
        **asked,
        "spec": config.conceal(stage.spec()),
        "made": {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": machine.hardware(),
            "ranks": dist.get_world_size(),
            "torch": torch.__version__,
            "versions": machine.versions(),
        },
    }
