"""Which files of a folder hold which split."""

import re
from pathlib import Path

from sfa.data.formats import ARRAY, READERS, SourceError

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?")  # the hub's names for the shards of a split


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of every split: ``<split>.{parquet,jsonl,csv}``, or its shards ``<split>-00000-of-00002.…`` in
    order; in a folder without any, ``<split>.json``.

    Raises:
        SourceError: a split has two files, or shards are missing.
    """
    files_by_split: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in READERS:
            shard = SHARD.fullmatch(file.stem)
            files_by_split.setdefault(shard[1] if shard else file.stem, []).append(file)
        elif file.suffix.lower() in READERS and (folder / f"{file.stem}{file.suffix.lower()}").exists():
            raise SourceError(f"{folder} has both {file.stem}{file.suffix.lower()} and {file.name}: remove one of them")
    if not files_by_split:
        return {file.stem: [file] for file in sorted(folder.iterdir()) if file.is_file() and file.suffix == ARRAY}
    for split, files in files_by_split.items():
        shards = [SHARD.fullmatch(file.stem) for file in files]
        places = [
            (int(shard[2]), int(shard[3]), file.suffix) for shard, file in zip(shards, files, strict=True) if shard
        ]
        if len(files) == 1 and not places:
            continue
        if places != [(k, len(files), files[0].suffix) for k in range(len(files))]:
            names = " and ".join(file.name for file in files[:4]) + (" …" if len(files) > 4 else "")
            requirement = "one file" if not places else "one file, or all shards of one format"
            raise SourceError(f"{folder} has {names} for the split {split}: it must be {requirement}")
    return files_by_split


def unread(folder: Path, split: str) -> list[str]:
    """Files of a split that :func:`split_files` ignores: ``train.json``, ``Train.csv``."""
    stems = {file.name: re.split(r"\.|-\d{5}-of-", file.name)[0] for file in sorted(folder.iterdir())}
    return [name for name, stem in stems.items() if "." in name and stem.lower() == split.lower()]
