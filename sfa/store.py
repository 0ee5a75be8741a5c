"""Stages on disk: written last and atomically, verified before use, made by one process at a time."""

import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sfa.errors import SFAError

SEAL = "checksums.json"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a folder, which it cannot lead out of


class DamagedStage(SFAError):
    """A finished stage whose files are not those its manifest lists."""

    def __init__(self, message: str, advice: str = "Delete its folder to make it again"):
        super().__init__(message, advice)


def fingerprint(spec: Any) -> str:
    """16 hex digits of the SHA-256 of ``spec`` in canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_folder(save_folder: Path, fingerprint: Any) -> Path:
    """Where the stage of a fingerprint lies that a results file gives.

    Raises:
        DamagedStage: it is no fingerprint, and could lead anywhere.
    """
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{16}", fingerprint):
        raise DamagedStage(f"{fingerprint!r} is the fingerprint of no stage: a file in {save_folder} was changed")
    return save_folder / "stages" / fingerprint


def run_folder(save_folder: Path, name: Any) -> Path:
    """Where the run of a name lies that a sweep's file gives.

    Raises:
        DamagedStage: it is the name of no folder in ``save_folder``, and could lead anywhere.
    """
    if not isinstance(name, str) or not re.fullmatch(PLAIN_NAME, name) or "\n" in name:
        raise DamagedStage(f"{name!r} is the name of no run: a file in {save_folder} was changed")
    return save_folder / name


def write_json(path: Path, content: Any) -> None:
    """Replaces ``path`` whole or not at all: write, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def finish(folder: Path, manifest: dict[str, Any]) -> None:
    """Makes ``folder`` a stage: writes its manifest, with the checksums of all files of its model."""
    files = {}
    for file in _files(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    write_json(folder / "manifest.json", {**manifest, "files": files})


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or ``None``.

    Raises:
        DamagedStage: it is no whole JSON, or does not list the stage's files.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    found = read_json(path)
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(_describes_file(about) for about in files.values()):
        raise DamagedStage(f"{path} is not the manifest of a stage: it does not list the stage's files")
    return dict(found)


def _describes_file(about: Any) -> bool:
    return isinstance(about, dict) and isinstance(about.get("bytes"), int) and isinstance(about.get("sha256"), str)


def weights_hash(model: Path) -> str:
    """Hash of the weights in a model's folder, whenever and by whomever they were made: by the checksums in its stage's
    manifest where it has one, else by the files."""
    made = manifest(model.parent)
    if made is not None:
        found = {Path(name).name: about["sha256"] for name, about in made["files"].items()}
    else:
        found = {file.name: identity(file) for file in model.iterdir() if file.is_file()}
    return fingerprint({name: checksum for name, checksum in found.items() if name.endswith(".safetensors")})


def read_json(path: Path) -> Any:
    """The content of a JSON file of a stage.

    Raises:
        DamagedStage: it is no whole JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DamagedStage(f"{path} is torn or damaged: {error}") from error


def verify(folder: Path) -> None:
    """Compares the files of a finished stage with its manifest.

    Raises:
        DamagedStage: a file is missing, added or changed.
    """
    listed = (manifest(folder) or {}).get("files", {})
    found = {str(file.relative_to(folder)): file for file in _files(folder)}
    if listed.keys() != found.keys():
        raise DamagedStage(f"{folder}: missing or unknown files {sorted(listed.keys() ^ found.keys())}")
    for name, file in found.items():
        if file.stat().st_size != listed[name]["bytes"] or _sha256(file) != listed[name]["sha256"]:
            raise DamagedStage(f"{file} is not the file that was written: its size or checksum differs")


def verify_adapted(folder: Path) -> None:
    """Compares the folder that a finished stage's adapters lie on with what it was when the stream began.

    Raises:
        DamagedStage: a file there is missing, added or changed.
    """
    settings = folder / "model" / "adapter_config.json"
    if not settings.is_file():
        return
    made = manifest(folder)
    while made is not None and made.get("parent"):
        made = manifest(stage_folder(folder.parent.parent, made["parent"]))
    listed = (made or {}).get("spec", {}).get("files")
    adapted = Path(read_json(settings)["base_model_name_or_path"])
    if listed is not None and _identities(adapted) != listed:
        raise DamagedStage(
            f"{adapted}, which the adapters in {folder} were trained on, is not what it was",
            "Put its files back, or train again from what is there now",
        )


def _identities(folder: Path) -> dict[str, str]:
    return {file.name: identity(file) for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}


def seal(folder: Path) -> None:
    """Writes the checksums of all files of ``folder`` into it. For what is kept beside stages: see :func:`unsealed`."""
    write_json(folder / SEAL, {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.name != SEAL})


def unsealed(folder: Path) -> Path:
    """``folder``, whose files are those that were sealed.

    Raises:
        DamagedStage: a file is missing or was changed.
    """
    listed = read_json(folder / SEAL) if (folder / SEAL).is_file() else {}
    for name, checksum in listed.items():
        if Path(name).name != name or not (folder / name).is_file() or _sha256(folder / name) != checksum:
            raise DamagedStage(f"{folder / name} is not the file that was written: its checksum differs")
    if not listed:
        raise DamagedStage(f"{folder} holds no checksums")
    return folder


def lock(folder: Path) -> FileLock:
    """A lock on making the stage in ``folder``; it is free again when its process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock")


def is_locked(folder: Path) -> bool:
    """Whether a process is making the stage in ``folder``."""
    try:
        with lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def identity(file: Path) -> str:
    """SHA-256 of a file's content, remembered while the file is untouched: its change time, which no copy or touch
    can set back, is part of what is compared."""
    found = file.stat()
    return _remembered(file, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=1 << 20)
def _remembered(file: Path, state: tuple[int, ...]) -> str:
    return _sha256(file)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "model").rglob("*") if file.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
