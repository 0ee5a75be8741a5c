"""Files on disk: written whole or not at all, identified by content hash, made by one process at a time."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sfa.errors import SFAError

SEAL = "checksums.json"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a folder, which it cannot lead out of


class DamagedStage(SFAError):
    """A finished stage whose files are not those its manifest lists."""

    ADVICE = "Delete its folder to make it again"

    def __init__(self, message: str, advice: str = ADVICE):
        super().__init__(message, advice)


def fingerprint(spec: Any) -> str:
    """16 hex digits of the SHA-256 of ``spec`` in canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Replaces ``path`` whole or not at all: write, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DamagedStage: it is no whole JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DamagedStage(f"{path} is torn or damaged: {error}") from error


def seal(folder: Path) -> None:
    """Writes the checksums of all files of ``folder`` into it. For what is kept beside stages: see :func:`unsealed`."""
    write_json(folder / SEAL, {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != SEAL})


def unsealed(folder: Path) -> Path:
    """``folder``, whose files are those that were sealed.

    Raises:
        DamagedStage: a file is missing or was changed.
    """
    listed = read_json(folder / SEAL) if (folder / SEAL).is_file() else {}
    for name, checksum in listed.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != checksum:
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
    return sha256(file)


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, read now."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
