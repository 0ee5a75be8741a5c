"""The one owner of ``runs/``: where its files are, and what is in them.

=========================================  ====================================================
``stages/<fingerprint>/model/``            a stage's model
``stages/<fingerprint>/manifest.json``     what the stage is and was made of, its files' checksums
``stages/<fingerprint>/evaluations.json``  the model's scores, during its training and at its end
``<run>/results.json``                     what a run came to
``<sweep>.json``                           the runs of a sweep
=========================================  ====================================================

A stage's manifest is written last: no manifest, no stage. See :mod:`sfa.records` for what the files hold.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from sfa.errors import UsageError
from sfa.records import (
    SCHEMA,
    FileRecord,
    Files,
    Foreign,
    KeptScore,
    KeptScores,
    Manifest,
    Results,
    StageAbout,
    StageRecord,
    Sweep,
    checked,
    fingerprint_of,
    run_name_of,
)
from sfa.store import DamagedStage, fingerprint, identity, read_json, sha256, write_json

Record = TypeVar("Record")


def stage_folder(save_folder: Path, fingerprint: object) -> Path:
    """Where a stage lies.

    Raises:
        DamagedStage: it is no fingerprint, and could lead anywhere.
    """
    return save_folder / "stages" / fingerprint_of(fingerprint, save_folder)


def run_folder(save_folder: Path, name: object) -> Path:
    """Where a run's results lie.

    Raises:
        DamagedStage: it is the name of no folder in ``save_folder``, and could lead anywhere.
    """
    return save_folder / run_name_of(name, save_folder)


def results_file(run: Path) -> Path:
    """The results in a run's folder."""
    return run / "results.json"


def sweep_file(save_folder: Path, name: str) -> Path:
    """The list of a sweep's runs."""
    return save_folder / f"{name}.json"


def is_made(folder: Path) -> bool:
    """Whether a stage's folder holds a finished stage."""
    return _manifest_file(folder).is_file()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished stage, or ``None``.

    Raises:
        DamagedStage: it is no whole JSON, or not the manifest of a stage.
    """
    file = _manifest_file(folder)
    if not file.is_file():
        return None
    found = _of_stage(Manifest, file)
    missing = sorted(StageRecord.__required_keys__ - found.keys()) if found["parent"] is not None else []
    if missing:
        raise DamagedStage(f"{file} lacks {', '.join(missing)}")
    return found


def finish(folder: Path, about: StageAbout) -> None:
    """Makes ``folder`` a stage: writes its manifest, with the checksums of all files of its model."""
    files: dict[str, FileRecord] = {}
    for file in _files(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    write_json(_manifest_file(folder), {**about, "files": files})


def verify(folder: Path) -> None:
    """Compares the files of a finished stage with its manifest.

    Raises:
        DamagedStage: a file is missing, added or changed.
    """
    listed = _listed(folder) or {}
    found = {str(file.relative_to(folder)): file for file in _files(folder)}
    if listed.keys() != found.keys():
        raise DamagedStage(f"{folder}: missing or unknown files {sorted(listed.keys() ^ found.keys())}")
    for name, file in found.items():
        if file.stat().st_size != listed[name]["bytes"] or sha256(file) != listed[name]["sha256"]:
            raise DamagedStage(f"{file} is not the file that was written: its size or checksum differs")


def verify_adapted(folder: Path) -> None:
    """Compares the folder that a finished stage's adapters lie on with what it was when the stream began.

    Raises:
        DamagedStage: a file there is missing, added or changed.
    """
    settings = folder / "model" / "adapter_config.json"
    if not settings.is_file():
        return
    made = read_manifest(folder)
    while made is not None and made["parent"] is not None:
        made = read_manifest(stage_folder(folder.parent.parent, made["parent"]))
    listed = None if made is None else made["spec"].get("files")
    adapted = Path(read_json(settings)["base_model_name_or_path"])
    if listed is not None and _identities(adapted) != listed:
        raise DamagedStage(
            f"{adapted}, which the adapters in {folder} were trained on, is not what it was",
            "Put its files back, or train again from what is there now",
        )


def weights_hash(model: Path) -> str:
    """Hash of the weights in a model's folder, whenever and by whomever they were made: by the checksums in its stage's
    manifest where it has one, else by the files."""
    listed = _listed(model.parent)
    if listed is not None:
        found = {Path(name).name: about["sha256"] for name, about in listed.items()}
    else:
        found = {file.name: identity(file) for file in model.iterdir() if file.is_file()}
    return fingerprint({name: checksum for name, checksum in found.items() if name.endswith(".safetensors")})


def read_scores(folder: Path) -> list[KeptScore]:
    """All scores kept with a stage, none if there is no file of them.

    Raises:
        DamagedStage: the file that holds them is not the one that was written.
    """
    file = _scores_file(folder)
    return _of_stage(KeptScores, file, "Delete it, and the model is scored again") if file.is_file() else []


def write_scores(folder: Path, rows: Sequence[KeptScore]) -> None:
    """Keeps scores with a stage, in place of those that are there."""
    write_json(_scores_file(folder), list(rows))


def read_manifest_of(run: Path, fingerprint: str) -> Manifest:
    """The manifest of one of a run's stages.

    Raises:
        UsageError: the stage is not there.
        DamagedStage: see :func:`read_manifest`.
    """
    folder = stage_folder(run.parent, fingerprint)
    found = read_manifest(folder)
    if found is None:
        raise UsageError(f"{folder}, a stage of {run}, is not there: start the run again to make it")
    return found


def read_scores_of(run: Path, fingerprint: str) -> list[KeptScore]:
    """All scores that are kept with one of a run's stages.

    Raises:
        UsageError: they are not there.
        DamagedStage: see :func:`read_scores`.
    """
    folder = stage_folder(run.parent, fingerprint)
    if not _scores_file(folder).is_file():
        raise UsageError(f"{_scores_file(folder)} is not there: start {run} again to make it")
    return read_scores(folder)


def read_results(run: Path) -> Results:
    """What a run came to, from its folder.

    Raises:
        UsageError: ``run`` is no folder of a finished run, or the file is torn or lacks something.
        DamagedStage: it names a stage that could lead out of the folder of runs.
    """
    file = results_file(run)
    if not run.is_dir():
        raise UsageError(f"{run} is {'a file' if run.exists() else 'not there'}: name the folder of a run")
    if not has_results(run):
        raise UsageError(f"{run} holds no results.json: name the folder of a run that is finished")
    found = _of_run(Results, file, run.parent)
    if found.get("schema", 1) > SCHEMA:
        raise UsageError(f"{file} is of schema {found.get('schema')}, and this release reads up to {SCHEMA}: update it")
    if not found["stages"] or not found["evaluations"]:
        raise UsageError(f"{file} holds no stages or no evaluations: start its run again")
    return found


def has_results(run: Path) -> bool:
    """Whether a run's folder has results: the run is finished."""
    return results_file(run).is_file()


def write_results(run: Path, content: Results) -> None:
    """Writes what a run came to into its folder, in place of what is there."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(results_file(run), content)


def read_sweep(index: Path) -> Sweep:
    """The runs that a sweep's file lists.

    Raises:
        UsageError: it is none, or not there.
        DamagedStage: it names a run that could lead out of the folder of runs.
    """
    if not index.is_file():
        what = "a folder" if index.is_dir() else "not there"
        raise UsageError(f"{index} is {what}: name the JSON file that a sweep wrote, <save_folder>/<sweep>.json")
    return _of_run(Sweep, index, index.parent)


def write_sweep(save_folder: Path, content: Sweep) -> None:
    """Lists the runs of a sweep, in place of the list that is there."""
    write_json(sweep_file(save_folder, content["sweep"]), content)


def _of_run(kind: type[Record], file: Path, save_folder: Path) -> Record:
    """The record in a file that scripts read."""
    try:
        return checked(kind, json.loads(file.read_text(encoding="utf-8")), file, save_folder)
    except Foreign as error:
        raise UsageError(f"{error}: it was not written by this suite, or by another release") from error
    except ValueError as error:
        raise UsageError(f"{file} is torn or damaged ({error}): start its run again") from error


def _of_stage(kind: type[Record], file: Path, advice: str = DamagedStage.ADVICE) -> Record:
    """The record in a file of a stage."""
    try:
        return checked(kind, read_json(file), file)
    except (Foreign, DamagedStage) as error:
        raise DamagedStage(str(error), advice) from error


def _listed(folder: Path) -> dict[str, FileRecord] | None:
    """A stage's files, by the paths that its manifest lists; ``None`` without one."""
    return _of_stage(Files, _manifest_file(folder))["files"] if is_made(folder) else None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "model").rglob("*") if file.is_file())


def _identities(folder: Path) -> dict[str, str]:
    return {file.name: identity(file) for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}


def _manifest_file(folder: Path) -> Path:
    return folder / "manifest.json"


def _scores_file(folder: Path) -> Path:
    return folder / "evaluations.json"
