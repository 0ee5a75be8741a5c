"""Checkpoint files: loaded only as tensors and plain values, whatever bytes a file contains."""

import contextlib
import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import composer.algorithms
import composer.utils.checkpoint
import torch
from composer import Trainer
from composer.utils import dist
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from sfa.stages.pickles import SAFE_GLOBALS, UntrustedPickle, check_tensors, read_metadata
from sfa.store import DamagedStage

NAME = re.compile(r"ep[0-9]+-ba([0-9]+)(\.pt)?")  # of a folder of shards, or of a file
MAGIC = b"PK\x03\x04"
# The records of an archive of torch.save, all in one folder.
RECORD = re.compile(
    r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)


class UntrustedCheckpoint(DamagedStage):
    """A checkpoint with content that this suite does not write."""

    def __init__(self, message: str):
        super().__init__(message, "Delete it to start its stage from the beginning")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first."""
    steps = {path: int(name[1]) for path in folder.glob("ep*") if (name := NAME.fullmatch(path.name))}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete and unchanged: the metadata, which are written last, and all shards of a sharded
    one; the directory at the end of a file; and every checksum of both. All ranks call it and share the work.

    Raises:
        UntrustedCheckpoint: it contains something that checkpoints of this suite do not. Nothing in it was executed.
    """
    damage: bool | str
    try:
        damage = _is_share_damaged(checkpoint)
    except UntrustedPickle as error:
        damage = str(error)
    damages = dist.all_gather_object(damage)
    reason = next((damage for damage in damages if isinstance(damage, str)), None)
    if reason is not None:
        raise UntrustedCheckpoint(f"{checkpoint} was not written here: {reason}")
    return not any(damages)


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Within it, Composer loads a checkpoint with ``weights_only``: torch itself refuses to run any code, also
    from a file that was changed after :func:`is_whole` checked it."""
    variable, reader = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", composer.utils.checkpoint.FileSystemReaderWithValidation
    load = composer.utils.checkpoint._torch_load_with_validation
    before = os.environ.get(variable)
    os.environ[variable] = "1"  # torch's shard loader passes weights_only=False
    composer.utils.checkpoint.FileSystemReaderWithValidation = ShardReader  # type: ignore[misc]
    composer.utils.checkpoint._torch_load_with_validation = _load_mapped
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            yield
    finally:
        composer.utils.checkpoint.FileSystemReaderWithValidation = reader  # type: ignore[misc]
        composer.utils.checkpoint._torch_load_with_validation = load
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@weights_only()
def resume_trainer(**settings: Any) -> Trainer:
    """Composer's Trainer, resumed from the checkpoint at ``load_path`` if there is one.

    Composer would create missing algorithms that a checkpoint lists by evaluating their text as Python; this suite does
    not need that, so it is disabled.
    """
    return Trainer(load_exclude_algorithms=dir(composer.algorithms), **settings)


def _load_mapped(checkpoint_filepath: Path | str, map_location: str) -> Any:
    """A single file, mapped and not read: its weights would take memory, beside θ and θ_o, while Composer allocates
    gradients to restore the optimizer."""
    return torch.load(checkpoint_filepath, map_location=map_location, weights_only=True, mmap=True)


class ShardReader(composer.utils.checkpoint.FileSystemReaderWithValidation):
    """Reads the metadata of a sharded checkpoint as :func:`read_metadata` does."""

    def read_metadata(self) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as pickled:
            metadata = read_metadata(pickled)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _is_share_damaged(checkpoint: Path) -> bool:
    """Whether this rank's share of a checkpoint is torn or damaged.

    Raises:
        UntrustedPickle: it was not written by this suite.
    """
    _check_kind(checkpoint, Path.is_dir if checkpoint.suffix == "" else Path.is_file)
    if checkpoint.is_file():
        with checkpoint.open("rb") as stream:
            return dist.get_global_rank() == 0 and _is_torn(stream)
    description = checkpoint / ".metadata"
    if not description.exists():
        return True
    _check_kind(description, Path.is_file)
    try:
        with description.open("rb") as pickled:
            shards = list(read_metadata(pickled).storage_data.values())
    except pickle.UnpicklingError:
        return True
    for shard in shards[dist.get_global_rank() :: dist.get_world_size()]:
        file = checkpoint / shard.relative_path
        if not file.exists() or file.stat().st_size < shard.offset + shard.length:
            return True
        _check_kind(file, Path.is_file)
        with file.open("rb") as stream:
            stream.seek(shard.offset)
            if _is_torn(io.BytesIO(stream.read(shard.length))):
                return True
    return False


def _check_kind(path: Path, is_kind: Callable[[Path], bool]) -> None:
    if path.is_symlink() or not is_kind(path):
        raise UntrustedPickle(f"{path.name} is a link, or not the expected kind of file")


def _is_torn(stream: IO[bytes]) -> bool:
    """Whether an archive of ``torch.save`` is incomplete, or has changed since it was written.

    torch's own reader decides what the archive contains: other readers may see another archive in the same bytes.

    Raises:
        UntrustedPickle: it is not such an archive, or its pickle was not written by this suite.
    """
    if not MAGIC.startswith(stream.read(len(MAGIC)).rstrip(b"\0")):  # zeros: the first block was never written
        raise UntrustedPickle("it does not start like a zip archive")
    stream.seek(0)
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        return True
    listed = archive.infolist()
    names = [record.filename for record in listed]
    unknown = [name for name in names if not RECORD.fullmatch(name)]
    if unknown or len(set(names)) < len(names) or len({name.split("/")[0] for name in names}) != 1:
        raise UntrustedPickle(
            f"it contains {unknown[0]}" if unknown else "it contains a record twice, or records in two folders"
        )
    try:
        for record in listed:
            archive.open(record).close()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UntrustedPickle(f"its archive contradicts itself: {error}") from error
    stream.seek(0)
    try:
        reader = torch._C.PyTorchFileReader(stream)
        read_names = reader.get_all_records()  # type: ignore[attr-defined]
        if sorted(read_names) != sorted(_inner(name) for name in names) or "data.pkl" not in read_names:
            raise UntrustedPickle("torch reads a different archive in it")
        sizes: dict[str, int] = {}
        pickled = b""
        for record in listed:
            content = reader.get_record(_inner(record.filename))
            if zlib.crc32(content) != record.CRC:
                return True
            folder, _, key = _inner(record.filename).rpartition("/")
            if folder == "data":
                sizes[key] = len(content)
            elif key == "data.pkl":
                pickled = content
    except RuntimeError as error:
        raise UntrustedPickle(f"torch cannot read it: {str(error).splitlines()[0]}") from error
    check_tensors(io.BytesIO(pickled), sizes)
    return False


def _inner(name: str) -> str:
    """A record's name without the archive's folder."""
    return name.partition("/")[2]
