"""Checkpoints to go on from: loaded as tensors and plain values alone, whichever bytes a file turns out to hold."""

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

from sfa.stages.pickles import SAFE_GLOBALS, ForeignPickle, check_tensors, read_metadata
from sfa.store import DamagedStage

NAME = re.compile(r"ep[0-9]+-ba([0-9]+)(\.pt)?")  # of a folder of shards, or of a file
MAGIC = b"PK\x03\x04"
# The records of an archive of torch.save, all in one folder.
RECORD = re.compile(
    r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)


class ForeignCheckpoint(DamagedStage):
    """A checkpoint that this suite did not write."""

    def __init__(self, message: str):
        super().__init__(message, "Delete it, and its stage starts anew")


def found(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, the newest first."""
    steps = {path: int(name[1]) for path in folder.glob("ep*") if (name := NAME.fullmatch(path.name))}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint is there and is as it was written: of a sharded one the metadata, which are written
    last, and all shards; of a file the directory at its end; of both, every checksum. All ranks call it and share the
    work.

    Raises:
        ForeignCheckpoint: it holds something that no checkpoint of this suite does. Nothing of it was run.
    """
    wrong: bool | str
    try:
        wrong = _share_of_what_is_wrong(checkpoint)
    except ForeignPickle as error:
        wrong = str(error)
    answers = dist.all_gather_object(wrong)
    reason = next((answer for answer in answers if isinstance(answer, str)), None)
    if reason is not None:
        raise ForeignCheckpoint(f"{checkpoint} was not written here: {reason}")
    return not any(answers)


@contextlib.contextmanager
def tensors_alone() -> Iterator[None]:
    """Within it, Composer loads a checkpoint with ``weights_only``: torch itself refuses to run anything, also of a
    file that was changed since :func:`is_whole` looked at it."""
    variable, reader = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", composer.utils.checkpoint.FileSystemReaderWithValidation
    before = os.environ.get(variable)
    os.environ[variable] = "1"  # Composer and torch's loader of shards ask for weights_only=False
    composer.utils.checkpoint.FileSystemReaderWithValidation = ShardReader  # type: ignore[misc]
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            yield
    finally:
        composer.utils.checkpoint.FileSystemReaderWithValidation = reader  # type: ignore[misc]
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@tensors_alone()
def resumed(**settings: Any) -> Trainer:
    """Composer's Trainer, at the checkpoint of ``load_path`` if there is one.

    Of the algorithms that a checkpoint lists Composer makes those that are missing, by evaluating their text as Python;
    none of this suite is made so, and none is.
    """
    return Trainer(load_exclude_algorithms=dir(composer.algorithms), **settings)


class ShardReader(composer.utils.checkpoint.FileSystemReaderWithValidation):
    """Reads the metadata of a sharded checkpoint as :func:`read_metadata` does."""

    def read_metadata(self) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as pickled:
            found = read_metadata(pickled)
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


def _share_of_what_is_wrong(checkpoint: Path) -> bool:
    """Whether this rank's share of a checkpoint is torn or damaged.

    Raises:
        ForeignPickle: it is none of this suite's.
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
        raise ForeignPickle(f"{path.name} is a link, or no file or folder of the kind that is written")


def _is_torn(stream: IO[bytes]) -> bool:
    """Whether an archive of ``torch.save`` was not written to its end, or has changed since.

    What the archive holds is told by torch's own reader: others may see another archive in the same bytes.

    Raises:
        ForeignPickle: it is no such archive, or its pickle is none of this suite's.
    """
    if not MAGIC.startswith(stream.read(len(MAGIC)).rstrip(b"\0")):  # zeros: a file whose first block never was written
        raise ForeignPickle("it does not begin as a zip archive")
    stream.seek(0)
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        return True
    listed = archive.infolist()
    names = [record.filename for record in listed]
    odd = [name for name in names if not RECORD.fullmatch(name)]
    if odd or len(set(names)) < len(names) or len({name.split("/")[0] for name in names}) != 1:
        raise ForeignPickle(f"it holds {odd[0]}" if odd else "it holds a record twice, or in two folders")
    try:
        for record in listed:
            archive.open(record).close()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ForeignPickle(f"its archive contradicts itself: {error}") from error
    stream.seek(0)
    try:
        reader = torch._C.PyTorchFileReader(stream)
        seen = reader.get_all_records()  # type: ignore[attr-defined]
        if sorted(seen) != sorted(_inner(name) for name in names) or "data.pkl" not in seen:
            raise ForeignPickle("torch reads another archive in it")
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
        raise ForeignPickle(f"torch cannot read it: {str(error).splitlines()[0]}") from error
    check_tensors(io.BytesIO(pickled), sizes)
    return False


def _inner(name: str) -> str:
    """A record's name in its folder, the one of the archive."""
    return name.partition("/")[2]
