"""The only module that reads and writes ``runs/``.

=========================================  ====================================================
``stages/<fingerprint>/model/``            a stage's model
``stages/<fingerprint>/manifest.json``     the stage's inputs and checksums of its files
``stages/<fingerprint>/evaluations.json``  the model's scores, during its training and at its end
``<run>/results.json``                     the results of a run
``<sweep>.json``                           the runs of a sweep
=========================================  ====================================================

A stage's manifest is written last: a stage without one is not finished. See :mod:`sfa.records` for the contents of
the files.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from sfa.errors import UsageError
from sfa.records import (
    SCHEMA,
    FileRecord,
    Files,
    InvalidRecord,
    Manifest,
    Results,
    StageDescription,
    StageRecord,
    StoredScore,
    StoredScores,
    Sweep,
    checked,
    fingerprint_of,
    run_name_of,
)
from sfa.store import DamagedStage, fingerprint, identities, read_json, sha256, write_json

Record = TypeVar("Record")
CARD = "README.md"  # a model's card
CARD_MARK = "<!-- written by sfa -->"  # in the cards that this suite writes


def stage_folder(save_folder: Path, fingerprint: object) -> Path:
    """The folder of a stage.

    Raises:
        DamagedStage: ``fingerprint`` is not a valid fingerprint, and could lead to another folder.
    """
    return save_folder / "stages" / fingerprint_of(fingerprint, save_folder)


def run_folder(save_folder: Path, name: object) -> Path:
    """The folder of a run's results.

    Raises:
        DamagedStage: ``name`` is not a valid folder name, and could lead out of ``save_folder``.
    """
    return save_folder / run_name_of(name, save_folder)


def results_file(run: Path) -> Path:
    """The file of results in a run's folder."""
    return run / "results.json"


def tracked(run: Path) -> Path:
    """The folder, in a run's folder, of what loggers write about the whole run."""
    return run / "stream"


def sweep_file(save_folder: Path, name: str) -> Path:
    """The file that lists a sweep's runs."""
    return save_folder / f"{name}.json"


def is_made(folder: Path) -> bool:
    """Whether a folder contains a finished stage."""
    return _manifest_file(folder).is_file()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished stage, or ``None``.

    Raises:
        DamagedStage: it is not valid JSON, or not the manifest of a stage.
    """
    file = _manifest_file(folder)
    if not file.is_file():
        return None
    manifest = _read_stage_record(Manifest, file)
    missing = sorted(StageRecord.__required_keys__ - manifest.keys()) if manifest["parent"] is not None else []
    if missing:
        raise DamagedStage(f"{file} lacks {', '.join(missing)}")
    return manifest


def stage_folders(save_folder: Path) -> list[Path]:
    """The folders of all stages, finished or not."""
    return [folder for folder in sorted((save_folder / "stages").glob("[0-9a-f]" * 16)) if folder.is_dir()]


def run_names(save_folder: Path) -> list[str]:
    """The names of all runs with results.

    Raises:
        UsageError: ``save_folder`` is not a folder.
    """
    if not save_folder.is_dir():
        raise UsageError(f"{save_folder} is not a folder: name a folder of runs, like runs")
    return [folder.name for folder in sorted(save_folder.iterdir()) if folder.is_dir() and has_results(folder)]


def manifests(save_folder: Path) -> Iterator[Manifest]:
    """The manifests of all finished stages; damaged ones are left out."""
    for folder in stage_folders(save_folder):
        with contextlib.suppress(DamagedStage):
            if (manifest := read_manifest(folder)) is not None:
                yield manifest


def model_identities(model: Path) -> dict[str, str]:
    """Content hashes of a model folder's files, by name, without a model card that this suite wrote, which holds dates
    and scores."""
    card = model / CARD
    own = card.is_file() and CARD_MARK in card.read_text(encoding="utf-8", errors="replace")
    return {name: digest for name, digest in identities(model).items() if not (own and name == CARD)}


def finish(folder: Path, description: StageDescription) -> None:
    """Finishes the stage in ``folder``: writes its manifest, with the checksums of all files of its model."""
    files: dict[str, FileRecord] = {}
    for file in _files(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    write_json(_manifest_file(folder), {**description, "files": files})


def verify(folder: Path) -> None:
    """Compares the files of a finished stage with its manifest.

    Raises:
        DamagedStage: a file is missing, added or changed.
    """
    listed = _listed_files(folder) or {}
    files = {str(file.relative_to(folder)): file for file in _files(folder)}
    if listed.keys() != files.keys():
        raise DamagedStage(f"{folder}: missing or unknown files {sorted(listed.keys() ^ files.keys())}")
    for name, file in files.items():
        if file.stat().st_size != listed[name]["bytes"] or sha256(file) != listed[name]["sha256"]:
            raise DamagedStage(f"{file} is not the file that was written: its size or checksum differs")


def verify_adapted(folder: Path) -> None:
    """Compares the base model of a finished stage's adapters with its state when the stream started.

    Raises:
        DamagedStage: a file there is missing, added or changed.
    """
    settings = folder / "model" / "adapter_config.json"
    if not settings.is_file():
        return
    manifest = read_manifest(folder)
    while manifest is not None and manifest["parent"] is not None:
        manifest = read_manifest(stage_folder(folder.parent.parent, manifest["parent"]))
    listed = None if manifest is None else manifest["spec"].get("files")
    adapted = Path(read_json(settings)["base_model_name_or_path"])
    if listed is not None and (not adapted.is_dir() or model_identities(adapted) != listed):
        raise DamagedStage(
            f"{adapted}, which the adapters in {folder} were trained on, has changed",
            "Restore its files, or train again from the current ones",
        )


def weights_hash(model: Path) -> str:
    """Hash of the weights in a model's folder: from the checksums in its stage's manifest if there is one, otherwise
    from the files."""
    listed = _listed_files(model.parent)
    if listed is not None:
        checksums = {Path(name).name: record["sha256"] for name, record in listed.items()}
    else:
        checksums = identities(model)
    return fingerprint({name: checksum for name, checksum in checksums.items() if name.endswith(".safetensors")})


def read_scores(folder: Path) -> list[StoredScore]:
    """All scores stored with a stage; empty if there is no file of scores.

    Raises:
        DamagedStage: the file is damaged or has invalid content.
    """
    file = _scores_file(folder)
    return _read_stage_record(StoredScores, file, "Delete it to score the model again") if file.is_file() else []


def write_scores(folder: Path, rows: Sequence[StoredScore]) -> None:
    """Writes a stage's scores, replacing existing ones."""
    write_json(_scores_file(folder), list(rows))


def read_manifest_of(run: Path, fingerprint: str) -> Manifest:
    """The manifest of one of a run's stages.

    Raises:
        UsageError: the stage does not exist.
        DamagedStage: see :func:`read_manifest`.
    """
    folder = stage_folder(run.parent, fingerprint)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder}, a stage of {run}, does not exist: start the run again to make it")
    return manifest


def read_scores_of(run: Path, fingerprint: str) -> list[StoredScore]:
    """All scores stored with one of a run's stages.

    Raises:
        UsageError: the file of scores does not exist.
        DamagedStage: see :func:`read_scores`.
    """
    folder = stage_folder(run.parent, fingerprint)
    if not _scores_file(folder).is_file():
        raise UsageError(f"{_scores_file(folder)} does not exist: start {run} again to make it")
    return read_scores(folder)


def read_results(run: Path) -> Results:
    """The results in a run's folder.

    Raises:
        UsageError: ``run`` is not the folder of a finished run, or the file is torn or incomplete.
        DamagedStage: it names a stage that could lead out of the folder of runs.
    """
    file = results_file(run)
    if not run.is_dir():
        raise UsageError(f"{run} {'is a file' if run.exists() else 'was not found'}: name the folder of a run")
    if not has_results(run):
        raise UsageError(f"{run} contains no results.json: name the folder of a finished run")
    results = _read_run_record(Results, file, run.parent)
    if results.get("schema", 1) > SCHEMA:
        raise UsageError(
            f"{file} has schema {results.get('schema')}, and this release reads up to {SCHEMA}: update the package"
        )
    if not results["stages"]:
        raise UsageError(f"{file} contains no stages: start its run again")
    return results


def read_scored(run: Path) -> Results:
    """:func:`read_results` of a run that has scores.

    Raises:
        UsageError: also if the run has none, as its ``eval.tasks`` is empty.
        DamagedStage: see :func:`read_results`.
    """
    results = read_results(run)
    if not results["evaluations"]:
        raise UsageError(f"{results_file(run)} has no scores: its eval.tasks is empty; sfa evaluate scores its models")
    return results


def has_results(run: Path) -> bool:
    """Whether a run's folder contains results, that is, the run is finished."""
    return results_file(run).is_file()


def write_results(run: Path, content: Results) -> None:
    """Writes the results of a run into its folder, replacing existing ones."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(results_file(run), content)


def read_sweep(index: Path) -> Sweep:
    """The runs that a sweep's file lists.

    Raises:
        UsageError: the file does not exist, or does not list runs.
        DamagedStage: it names a run that could lead out of the folder of runs.
    """
    if not index.is_file():
        state = "is a folder" if index.is_dir() else "was not found"
        raise UsageError(f"{index} {state}: name the JSON file that a sweep wrote, <save_folder>/<sweep>.json")
    return _read_run_record(Sweep, index, index.parent)


def write_sweep(save_folder: Path, content: Sweep) -> None:
    """Writes the list of a sweep's runs, replacing an existing one."""
    write_json(sweep_file(save_folder, content["sweep"]), content)


def _read_run_record(kind: type[Record], file: Path, save_folder: Path) -> Record:
    """Reads a record of a run or sweep."""
    try:
        return checked(kind, json.loads(file.read_text(encoding="utf-8")), file, save_folder)
    except InvalidRecord as error:
        raise UsageError(f"{error}: it was not written by this suite, or by another release") from error
    except ValueError as error:
        raise UsageError(f"{file} is torn or damaged ({error}): start its run again") from error


def _read_stage_record(kind: type[Record], file: Path, advice: str = DamagedStage.ADVICE) -> Record:
    """Reads a record of a stage."""
    try:
        return checked(kind, read_json(file), file)
    except (InvalidRecord, DamagedStage) as error:
        raise DamagedStage(str(error), advice) from error


def _listed_files(folder: Path) -> dict[str, FileRecord] | None:
    """A stage's files by path, as its manifest lists them; ``None`` without a manifest."""
    return _read_stage_record(Files, _manifest_file(folder))["files"] if is_made(folder) else None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "model").rglob("*") if file.is_file())


def _manifest_file(folder: Path) -> Path:
    return folder / "manifest.json"


def _scores_file(folder: Path) -> Path:
    return folder / "evaluations.json"
