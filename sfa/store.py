"""Files on disk: written atomically, identified by content hash, made by one process at a time."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sfa.errors import SFAError

CHECKSUMS = "checksums.json"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a folder; cannot lead out of its parent


class DamagedStage(SFAError):
    """A finished stage whose files differ from its manifest."""

    ADVICE = "Delete its folder to make it again"

    def __init__(self, message: str, advice: str = ADVICE):
        super().__init__(message, advice)


def fingerprint(spec: Any) -> str:
    """16 hex digits of the SHA-256 of ``spec`` in canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Replaces ``path`` atomically: write, fsync, rename."""
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
        DamagedStage: it is not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DamagedStage(f"{path} is torn or damaged: {error}") from error


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files of ``folder`` into it, for :func:`verify_checksums`. For caches, which have no
    manifest."""
    write_json(
        folder / CHECKSUMS, {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != CHECKSUMS}
    )


def verify_checksums(folder: Path) -> Path:
    """Returns ``folder`` after comparing its files with the checksums that :func:`write_checksums` wrote.

    Raises:
        DamagedStage: a file is missing or was changed.
    """
    checksums = read_json(folder / CHECKSUMS) if (folder / CHECKSUMS).is_file() else {}
    for name, checksum in checksums.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != checksum:
            raise DamagedStage(f"{folder / name} is not the file that was written: its checksum differs")
    if not checksums:
        raise DamagedStage(f"{folder} contains no checksums")
    return folder


def lock(folder: Path) -> FileLock:
    """A lock on making the stage in ``folder``; it is released when its process ends, however it ends."""
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
    """SHA-256 of a file's content, cached until the file changes: the comparison includes its change time, which no
    copy or touch can set back."""
    stat = file.stat()
    return _cached_sha256(file, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


def identities(folder: Path) -> dict[str, str]:
    """:func:`identity` of each file in a folder, by name."""
    return {file.name: identity(file) for file in sorted(folder.iterdir()) if file.is_file()}


@functools.lru_cache(maxsize=1 << 20)
def _cached_sha256(file: Path, state: tuple[int, ...]) -> str:
    return sha256(file)


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, without a cache."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
