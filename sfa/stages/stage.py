"""Makes a stage, or reads it from disk: builds the base, trains a task, merges models."""

import gc
import shutil
import time
from pathlib import Path
from typing import cast

import torch
from composer.utils import dist, get_device

from sfa import machine, runs, store, weights
from sfa.data.source import SourceError
from sfa.errors import UsageError
from sfa.fisher import diagonal, fisher_folder
from sfa.methods.base import FisherSettings, Sources
from sfa.models import building, stored
from sfa.parallel import exclusively
from sfa.records import Cost, InputSettings, Manifest, Score, StageDescription, StoredScore, TimedScore
from sfa.stages.composer_model import StageModel
from sfa.stages.context import Context
from sfa.stages.kept import Kept
from sfa.stages.plan import Base, Merge, Stage, Training
from sfa.stages.training import train
from sfa.terminal import telling


def make(stage: Stage, context: Context) -> Manifest:
    """Returns the manifest of a stage, after making the stage if it is not finished on disk.

    Raises:
        Interrupted: a signal stopped the training, after a checkpoint; calling again resumes it.
        DamagedStage: the parent's files are not those its manifest lists.
        SourceError: the data, or the model that the stream starts from, were changed since the run started.
    """
    folder = context.folder(stage)
    with exclusively(folder, context.console.print):
        manifest = runs.read_manifest(folder)
        if manifest is not None:
            if manifest["fingerprint"] != stage.fingerprint:
                raise store.DamagedStage(f"the manifest in {folder} is that of the stage {manifest['fingerprint']}")
            _report_versions(manifest, context)
            return manifest
        if isinstance(stage, Kept):
            raise UsageError(f"{folder}, the stage {stage.label} of {stage.run}, does not exist: start that run again")
        _check_inputs(stage, context)
        folder.mkdir(parents=True, exist_ok=True)
        for needed in stage.needs:
            runs.verify(context.folder(needed))
        record, rows = _make(stage, context)
        if dist.get_global_rank() == 0:
            runs.write_scores(folder, [{**row, "final": row["step"] == record["steps"]} for row in rows])
            runs.finish(folder, _describe(stage, record, context))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        dist.barrier()
    gc.collect()  # trainers contain reference cycles
    manifest = runs.read_manifest(folder)
    assert manifest is not None, "it was just written"
    return manifest


def _make(stage: Stage, context: Context) -> tuple[Cost, list[TimedScore]]:
    """The manifest's record of how the stage was made, and the scores taken during training."""
    match stage:
        case Base():
            return _build(stage, context), []
        case Merge():
            return _merge(stage, context), []
        case Training():
            return train(stage, context)
    raise TypeError(f"{type(stage).__name__} is not a known kind of stage")


def _check_inputs(stage: Stage, context: Context) -> None:
    """Plans the run again, from its files as they are now: a stage is saved only under the fingerprint of its actual
    inputs."""
    if not any(stage.fingerprint == planned.fingerprint for planned in context.replan()):
        raise SourceError(
            f"{stage.label}: its data, or the model that the stream starts from, were changed during the run",
            "The stage is discarded; the same command starts it again from the current files",
        )


def _report_versions(manifest: Manifest, context: Context) -> None:
    """Prints a notice if a stage was made with package versions other than the installed ones."""
    recorded, installed = manifest["made"].get("versions", {}), machine.versions()
    differences = [
        f"{name} {version} (here {installed.get(name)})"
        for name, version in recorded.items()
        if installed.get(name) != version
    ]
    if differences:
        context.print_once(f"reused stages were made with {', '.join(differences)}")


def scores(stage: Stage, context: Context) -> list[Score]:
    """The final scores of a finished stage on the run's evaluations; missing scores are computed and saved.

    Raises:
        DamagedStage: the files of the model are not those its manifest lists.
    """
    folder = context.folder(stage)
    evaluator = context.evaluator
    known = {row["key"]: row for row in runs.read_scores(folder) if row["final"]}
    missing = [name for name in evaluator.names if evaluator.key(name) not in known]
    if missing:
        runs.verify(folder)
        with telling(f"scoring {stage.label}"):
            model = stored.read_model(folder / "model").eval()
            if torch.cuda.is_available():
                model = model.cuda()
            processor = stored.read_processor(folder / "model")
            measured = evaluator(model, processor, missing)
        fresh: list[StoredScore] = [
            {"step": 0, "key": evaluator.key(score["evaluation"]), **score, "final": True} for score in measured
        ]
        known |= {row["key"]: row for row in fresh}
        _check_inputs(stage, context)
        if dist.get_global_rank() == 0:
            runs.write_scores(folder, [*runs.read_scores(folder), *fresh])
    final = [_score(known[evaluator.key(name)]) for name in evaluator.names]
    recorded = stage.recorded if isinstance(stage, Kept) else ()
    return [*(score for score in recorded if score["evaluation"] not in evaluator.names), *final]


def _score(row: StoredScore) -> Score:
    """A stored score without its step, key and flag."""
    return cast(Score, {key: value for key, value in row.items() if key not in ("step", "key", "final")})


def _build(stage: Base, context: Context) -> Cost:
    """Builds or downloads the model that the stream starts from, and saves it like any other stage."""
    if dist.get_global_rank() == 0:
        described = stage.model.model_copy(update={"revision": stage.commit}) if stage.commit else stage.model
        model, processor = building.build(
            described, stage.seed or 0, stage.family, stage.tokenizer_tasks, context.console.print
        )
        out = context.model(stage)
        weights.write_model(model, out)
        processor.save_pretrained(out)
    return {"steps": 0}


def _merge(stage: Merge, context: Context) -> Cost:
    """Merges on rank 0. The cost of a merge includes that of the last training it depends on."""
    if dist.get_global_rank() != 0:
        return {"steps": 0}
    trained = runs.read_manifest(context.folder(stage.sources[-1]))
    assert trained is not None, "dependencies are made first"
    start = time.perf_counter()
    out, merger = context.model(stage), stage.merger
    shutil.rmtree(out, ignore_errors=True)  # left by a process that ended before writing the manifest
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
    seconds = time.perf_counter() - start
    return {
        "steps": trained["steps"],
        "tokens": trained["tokens"],
        "peak_bytes": trained["peak_bytes"],
        "stored_examples": trained["stored_examples"],
        "stored_bytes": trained["stored_bytes"],
        "seconds": round(trained["seconds"] + seconds, 3),
        "merge_seconds": round(seconds, 3),
        "merges": [],
        "merge_steps": [trained["steps"]] if base is None else [],
        "l2_from_anchor": weights.distance(out, context.model(stage.before)),
    }


def _fisher_of(source: Stage, settings: FisherSettings, context: Context) -> Path:
    """The folder of a single-task model's Fisher information on its task, computed by one process if missing."""
    assert isinstance(source, Training), "single-task models are trained"
    folder = fisher_folder(context.folder(source), settings.examples, settings.labels, source.seed)
    with store.lock(folder):
        if not folder.is_dir():
            processor, model = stored.read_processor(context.model(source)), stored.read_model(context.model(source))
            device = get_device(None)
            wrapped = device.module_to_device(StageModel(model.eval(), processor))
            data = context.array_builder(source, processor, model.config)
            examples = data.examples(source.tasks[0], settings.examples, source.seed)
            shards = diagonal(wrapped, map(device.batch_to_device, examples), settings.labels, source.seed)
            weights.write_in_one_process(wrapped, shards, folder)
    return store.verify_checksums(folder)


def _describe(stage: Stage, record: Cost, context: Context) -> StageDescription:
    # The base does not depend on the run's input settings: other runs share it.
    input_settings: InputSettings = context.input_settings if stage.parent else {}
    return {
        "fingerprint": stage.fingerprint,
        "task": stage.label,
        "method": stage.method_name,
        "parent": stage.parent.fingerprint if stage.parent else None,
        **record,
        **input_settings,
        "spec": context.conceal(stage.spec()),
        "made": {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": machine.hardware(),
            "ranks": dist.get_world_size(),
            "torch": torch.__version__,
            "versions": machine.versions(),
        },
    }
