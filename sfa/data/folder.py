"""Which files of a folder, a file or a pattern hold which split."""

import glob
import re
from pathlib import Path

from sfa.data.formats import OPENERS, READERS, SourceError, format_of, read_text, stem_of

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?")  # the hub's names for the shards of a split
SPLITS = ("train", "test", "validation")
TABLES = tuple(suffix for suffix in READERS if suffix != ".json")  # a .json of any other name may be no data
METADATA = ("metadata.csv", "metadata.jsonl")  # of a folder of pictures
FILE_NAME = "file_name"  # column of the metadata: a picture's path relative to them


def split_files(place: Path) -> dict[str, list[Path]]:
    """The files of every split.

    Args:
        place: a folder of ``<split>.{parquet,jsonl,csv,json}`` or shards ``<split>-00000-of-00002.…``, in order; a
            file, which is the split ``train``; or a pattern like ``data/part-*.jsonl``, whose files are that split as
            well, unless they are named after splits. Text files may be compressed, ``train.jsonl.gz``.

    Raises:
        SourceError: a split has two files, or shards are missing.
    """
    if place.is_file():
        return {"train": [place]} if format_of(place) else {}
    if is_pattern(place):
        files = [Path(name) for name in sorted(glob.glob(str(place))) if Path(name).is_file()]
        files = [file for file in files if format_of(file)]
        named = {_split_of(file) for file in files}
        if files and not named & {*SPLITS}:
            return {"train": _of_one_format(files)}
        return _by_split(place.parent, files)
    if not place.is_dir():
        return {}
    files = [file for file in sorted(place.iterdir()) if file.is_file() and not _names_pictures(file)]
    files = [file for file in files if file.suffix not in OPENERS or not file.with_suffix("").is_file()]
    tables = {stem_of(file) for file in files if format_of(file) in TABLES}
    if tables:
        files = [f for f in files if format_of(f) in TABLES or (_is_json_split(f) and stem_of(f) not in tables)]
    files = [file for file in files if format_of(file)]
    return _by_split(place, files)


def files_of(place: Path, split: str) -> list[Path] | None:
    """The files of a split, ``None`` if there is none. The files of a folder that are numbered alike, or its only one,
    are the split ``train`` if none is named after a split."""
    named = split_files(place)
    if split == "train" and named and not named.keys() & {*SPLITS} and not unread(place, split):
        files = [file for files in named.values() for file in files]
        if len({re.sub(r"\d+", "#", file.name) for file in files}) == 1:
            return files
    return named.get(split)


def is_pattern(place: Path) -> bool:
    """Whether a path that does not exist is a pattern of file names."""
    return glob.has_magic(str(place)) and not place.exists()


def _names_pictures(file: Path) -> bool:
    """Whether it is no table, but the metadata of a folder of pictures."""
    return file.name in METADATA and FILE_NAME in next(read_text(file), {})


def _split_of(file: Path) -> str:
    shard = SHARD.fullmatch(stem_of(file))
    return shard[1] if shard else stem_of(file)


def _is_json_split(file: Path) -> bool:
    return format_of(file) == ".json" and _split_of(file) in SPLITS


def _of_one_format(files: list[Path]) -> list[Path]:
    if len({format_of(file) for file in files}) > 1:
        raise SourceError(f"{files[0].parent}: {files[0].name} … {files[-1].name} must be of one format")
    return files


def _by_split(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    files_by_split: dict[str, list[Path]] = {}
    for file in files:
        files_by_split.setdefault(_split_of(file), []).append(file)
    for file in folder.iterdir() if folder.is_dir() else ():
        lower = file.suffix.lower()
        if file.suffix != lower and lower in TABLES and (folder / f"{file.stem}{lower}").exists():
            raise SourceError(f"{folder} has both {file.stem}{lower} and {file.name}: remove one of them")
    for split, of_split in files_by_split.items():
        shards = [SHARD.fullmatch(stem_of(file)) for file in of_split]
        places = [
            (int(shard[2]), int(shard[3]), format_of(file))
            for shard, file in zip(shards, of_split, strict=True)
            if shard
        ]
        if len(of_split) == 1 and not places:
            continue
        if places != [(k, len(of_split), format_of(of_split[0])) for k in range(len(of_split))]:
            names = " and ".join(file.name for file in of_split[:4]) + (" …" if len(of_split) > 4 else "")
            requirement = "one file" if not places else "one file, or all shards of one format"
            raise SourceError(f"{folder} has {names} for the split {split}: it must be {requirement}")
    return files_by_split


def unread(folder: Path, split: str) -> list[str]:
    """Files of a split that :func:`split_files` ignores: ``train.txt``, ``Train.csv``."""
    if not folder.is_dir():
        return []
    stems = {file.name: re.split(r"\.|-\d{5}-of-", file.name)[0] for file in sorted(folder.iterdir())}
    return [name for name, stem in stems.items() if "." in name and stem.lower() == split.lower()]
