"""Rows of a data set from the hub, or from a folder of ``<split>.{parquet,jsonl,csv}`` with the hub's columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sfa import store
from sfa.data.task import Row, Split, Task, held_out
from sfa.errors import SFAError
from sfa.values import REMOTE, LocalPath, at_home

READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


class SourceError(SFAError):
    """A data set that cannot be had, that lacks a column, or whose rows are not what they should be."""


class SourcedTask(Task):
    """A task whose rows come from the hub or a folder."""

    source: str = Field(description="hub name, or a folder of <split>.{parquet,jsonl,csv}")
    subset: str | None = Field(None, description="the hub's configuration name")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    limit: int | None = Field(None, ge=1, description="rows to train on, the first after a seeded shuffle; null: all")
    data_folder: LocalPath | None = Field(None, exclude=True, description="set from the config's data_folder")

    def read(self, split: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of one of the source's splits."""
        return list(load(self.source, split, columns, self.data_folder, self.subset, self.revision))

    def split_rows(self, split: Split, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a split. A source without a ``test`` or ``validation`` split of its own gives one row in fifty,
        by the hash of the first column, to ``test``, and one at least."""
        own = splits(self.source, self.data_folder, self.subset, self.revision)
        test = next((name for name in ("test", "validation") if name in own), None)
        if test is not None:
            return self.read(split if split == "train" else test, columns)
        rows = self.read("train", columns)
        names = [str(row[columns[0]]) for row in rows]
        held = {name for name in names if held_out(name, 1, of=50)} or set(sorted(names)[:1])
        return [row for row, name in zip(rows, names, strict=True) if (name in held) == (split == "test")]

    def data_spec(self) -> dict[str, Any]:
        return {**super().data_spec(), "source": identity(self.source, self.data_folder)}


def load(
    source: str,
    split: str,
    columns: Sequence[str],
    data_folder: Path | None = None,
    subset: str | None = None,
    revision: str | None = None,
    optional: Sequence[str] = (),
) -> Any:
    """The named columns of all rows of a split, a ``datasets.Dataset``, which reads them when they are asked for.

    Args:
        source: hub name or folder. A hub name is looked for in ``data_folder`` first, by its last part.
        split: name of the split.
        columns: columns that must be there.
        data_folder: where local copies are.
        subset: the hub's configuration name.
        revision: the hub's branch, tag or commit.
        optional: columns that are read where they are there.

    Raises:
        SourceError: the data set, the split or a column is not there, or a column has no value in a row.
    """
    import datasets

    folder = local(source, data_folder)
    if folder is None:
        try:
            data = datasets.load_dataset(source, subset, split=split, revision=revision)
        except Exception as error:  # the hub's libraries raise a dozen kinds
            raise SourceError(f"{_cannot(source, error)}") from error
    else:
        file = _files(folder).get(split)
        if file is None:
            raise SourceError(f"{folder} has no {split}.parquet, .jsonl or .csv, but {sorted(_files(folder))}")
        try:
            data = datasets.load_dataset(READERS[file.suffix], data_files={split: str(file)}, split=split)
        except Exception as error:  # a reader for each format
            reason = str(error.__cause__ or "") or str(error) or "it holds nothing"
            raise SourceError(f"{file} cannot be read: {reason}") from error
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        raise SourceError(f"{folder or source} ({split}) lacks the columns {missing}; it has {data.column_names}")
    for column in columns:
        if empty := data.data.column(column).null_count:
            raise SourceError(
                f"{folder or source} ({split}): the column {column} is empty in {empty} of {len(data)} rows"
            )
    return data.select_columns([*columns, *(column for column in optional if column in data.column_names)])


def labelled(options: Sequence[str], label: Any) -> str:
    """The option that a label, a whole number from 0 or its digits, stands for.

    Raises:
        SourceError: it stands for none.
    """
    digits = str(int(label) if isinstance(label, int) else label)
    if not isinstance(label, int | str) or not digits.isdecimal() or int(digits) >= len(options):
        raise SourceError(f"a label must be a whole number from 0 to {len(options) - 1}, not {label!r}")
    return options[int(digits)]


def splits(source: str, data_folder: Path | None, subset: str | None = None, revision: str | None = None) -> list[str]:
    """The names of a source's splits.

    Raises:
        SourceError: the data set cannot be had.
    """
    folder = local(source, data_folder)
    if folder is not None:
        return sorted(_files(folder))
    import datasets

    try:
        return list(datasets.get_dataset_split_names(source, subset, revision=revision))
    except Exception as error:
        raise SourceError(f"{_cannot(source, error)}") from error


def identity(source: str, data_folder: Path | None) -> Any:
    """What a source is, for a fingerprint: the hub's name, or the contents of the local files."""
    folder = local(source, data_folder)
    if folder is None:
        return source
    return {split: store.identity(file) for split, file in sorted(_files(folder).items())}


def local(source: str, data_folder: Path | None) -> Path | None:
    """The folder that holds a source, or ``None`` if it has to come from the hub.

    Raises:
        SourceError: ``source`` is a path to nothing.
    """
    try:
        named = Path(at_home(source))
    except ValueError as error:
        raise SourceError(str(error)) from error
    if not source.strip() or REMOTE.match(source):
        raise SourceError(f"{source!r} is neither a hub name nor a local folder; copy or mount it")
    for folder in (named, *([data_folder / source, data_folder / named.name] if data_folder else [])):
        if folder.is_dir() and _files(folder):
            return folder
    if source.startswith((".", "/", "~")):
        raise SourceError(f"{source} is no folder of <split>.parquet, .jsonl or .csv")
    return None


def usable(rows: Sequence[Row], name: str) -> Sequence[Row]:
    """``rows`` of text.

    Raises:
        SourceError: there are none, or the prompt or the response of one is no text; names the task and the row.
    """
    if not rows:
        raise SourceError(f"{name} has no rows")
    for number, row in enumerate(rows):
        for part in ("prompt", "response"):
            text = dict(row)[part]
            if not isinstance(text, str):
                raise SourceError(f"{name}: the {part} of row {number} is no text but {text!r}")
    return rows


def shuffled(rows: Sequence[Row], limit: int | None, seed: int = 0) -> list[Row]:
    """The first ``limit`` rows after a seeded shuffle, or all as they are."""
    if limit is None:
        return list(rows)
    import random

    return random.Random(seed).sample(list(rows), min(limit, len(rows)))


def _files(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in READERS}


def _cannot(source: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"{source} cannot be had from the hub: {reason}\n  A local copy does as well, a folder of <split>.parquet, "
        f".jsonl or .csv with the hub's columns: data_folder=DIR with DIR/{Path(source).name}/ in it, or the task's "
        "own source. Data sets that are scripts on the hub load from revision: refs/convert/parquet."
    )
