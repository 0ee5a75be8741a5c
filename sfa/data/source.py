"""Rows of a data set from the hub, or from local files with its columns: see :func:`sfa.data.folder.split_files`."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sfa import hub, store
from sfa.data import picture_folder
from sfa.data.folder import files_of, is_pattern, split_files, unread
from sfa.data.formats import (
    READERS,
    ParquetRows,
    SourceError,
    SourceRow,
    format_of,
    parquet_class_names,
    read_text,
    whole_number,
)
from sfa.data.task import Row
from sfa.values import REMOTE, at_home

Item = TypeVar("Item")

__all__ = [
    "Source",
    "SourceError",
    "class_names",
    "column",
    "columns",
    "find",
    "identity",
    "labelled",
    "load",
    "open_rows",
    "shuffled",
    "splits",
]
__all__ += ["usable", "whole_number"]
ABSENT = object()


@dataclass(frozen=True)
class Source:
    """A data set, located once, when its task is created: see :func:`find`.

    Attributes:
        name: as written in a config.
        path: local folder, file or pattern of files; ``None``: it comes from the hub.
        subset: the hub's configuration name.
        revision: the hub's branch, tag or commit.
    """

    name: str
    path: Path | None
    subset: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return str(self.path or self.name)


def find(name: str, data_folder: Path | None, subset: str | None = None, revision: str | None = None) -> Source:
    """The data set of a hub name or path.

    Raises:
        SourceError: ``name`` is a path that does not exist, or a folder without data files.
    """
    return Source(name, _local(name, data_folder), subset, revision)


def load(source: Source, split: str, columns: Sequence[str], optional: Sequence[str] = ()) -> list[SourceRow]:
    """The named columns of all rows of a split.

    Args:
        source: the data set.
        split: name of the split.
        columns: required columns. ``meta.text`` is the column of that name, or else ``text`` of the objects in the
            column ``meta``.
        optional: columns that are returned for the rows where they have a value.

    Raises:
        SourceError: the data set, the split or a column does not exist, or a required value is missing.
    """
    where = f"{source} ({split})"
    rows, known = open_rows(source, split, [*columns, *optional], required=columns)
    if known:
        _check(where, [column for column in columns if _top(column, known) is None], known)
    loaded: list[SourceRow] = []
    empty: Counter[str] = Counter()
    seen: set[str] = set()
    for row in rows:
        values = {name: _value(row, name) for name in (*columns, *optional)}
        for name, value in values.items():
            if value is ABSENT:
                known.update(_inside(row, name))
            else:
                seen.add(name)
        empty.update(name for name in columns if values[name] is ABSENT or values[name] is None)
        loaded.append({name: value for name, value in values.items() if value is not ABSENT and value is not None})
    _check(where, [column for column in columns if column not in seen], known)
    for column, count in empty.items():
        raise SourceError(f"{where}: the column {column} is empty in {count} of {len(loaded)} rows")
    return loaded


def columns(source: Source, split: str) -> list[str]:
    """The columns of a split; of text files, those of its first row. Errors as for :func:`open_rows`."""
    rows, known = open_rows(source, split, [])
    if not known:
        next(iter(rows), None)  # adds them
    return list(known)


def column(source: Source, split: str, name: str) -> Sequence[Any]:
    """The values of one column of a split, ``None`` where missing. Parquet files and hub data are read lazily,
    efficiently in ascending order. Arguments and errors as for :func:`load`."""
    rows, known = open_rows(source, split, [name])
    values = [_value_or_none(row, name) for row in rows] if isinstance(rows, Iterator) else _Column(rows, name)
    lacking = [name] if _top(name, known) is None else []
    _check(f"{source} ({split})", lacking, known)
    return values


def class_names(source: Source, split: str, name: str) -> list[str]:
    """The names of the classes that a column of whole numbers stands for, in their order, as ``datasets`` stores them
    with Parquet files and hub data; empty if there are none. Errors as for :func:`open_rows`."""
    if source.path is None:
        return list(getattr(_hub(source, split).features.get(name), "names", None) or ())
    files = files_of(source.path, split) or []
    return parquet_class_names(files[0], name) if files and files[0].suffix == ".parquet" else []


class _Column(Sequence[Any]):
    def __init__(self, rows: Any, name: str):
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return _value_or_none(self.rows[place], self.name)


def open_rows(
    source: Source, split: str, columns: Sequence[str], required: Sequence[str] = ()
) -> tuple[Iterable[Mapping[str, Any]], dict[str, None]]:
    """The rows of a split, with those of the named columns that exist, and the names of all columns. Rows of text files
    are an iterator, which adds the names as it reads; others are a lazily read sequence. Every file must have the
    ``required`` ones, if there are several.

    Raises:
        SourceError: the data set or the split does not exist, has no rows, or cannot be read.
    """
    path = source.path
    if path is None:
        data = _hub(source, split)
        known = dict.fromkeys(data.column_names)
        return data.select_columns(_tops(columns, known)), known
    files = files_of(path, split)
    if files is None:
        if not split_files(path) and (folder := picture_folder.read(path)) is not None:
            return _picture_rows(folder, split)
        others = "".join(f"; {name} is not read" for name in unread(path, split))
        raise SourceError(f"{path} has no {split}.parquet, .jsonl or .csv, but {sorted(split_files(path))}{others}")
    if files[0].suffix != ".parquet":
        known = {}
        return _text_rows(files, known, required), known
    known = dict.fromkeys(ParquetRows(files, []).names)
    rows = ParquetRows(files, _tops(columns, known))
    if not len(rows):
        raise SourceError(f"{files[0]} cannot be read: it holds no rows")
    return rows, known


def _picture_rows(
    folder: picture_folder.PictureFolder, split: str
) -> tuple[Iterable[Mapping[str, Any]], dict[str, None]]:
    if split not in folder.rows:
        raise SourceError(f"{folder.folder} has no pictures in {split}, but in {sorted(folder.rows)}")
    rows = folder.rows[split]
    return rows, dict.fromkeys(key for row in rows for key in row)


def _text_rows(files: Sequence[Path], known: dict[str, None], required: Sequence[str]) -> Iterator[SourceRow]:
    empty = True
    for file in files:
        own: dict[str, None] = {}
        for row in read_text(file):
            own.update(dict.fromkeys(row))
            known.update(own)
            yield row
            empty = False
        if own and len(files) > 1:
            _check(str(file), [name for name in required if _top(name, own) is None], own)
    if empty:
        raise SourceError(f"{files[0]} cannot be read: it holds no rows")


def _hub(source: Source, split: str) -> Any:
    """A split from the hub, with images still encoded."""
    import datasets

    try:
        commit = hub.commit(source.name, source.revision, "dataset") or source.revision
        data = datasets.load_dataset(source.name, source.subset, split=split, revision=commit)
    except Exception as error:  # the hub's libraries raise a dozen kinds
        raise SourceError(f"{_cannot(source.name, error)}") from error
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return data


def _top(name: str, known: Iterable[str]) -> str | None:
    """The column that a name like ``meta.text`` refers to."""
    segments = name.split(".")
    heads = (".".join(segments[:k]) for k in range(len(segments), 0, -1))
    return next((head for head in heads if head in known), None)


def _tops(names: Sequence[str], known: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(top for name in names if (top := _top(name, known)) is not None))


def _value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a name like ``meta.text`` in a row: the column of that name, or else a key inside the column
    ``meta``."""
    if name in row:
        return row[name]
    top = _top(name, row)
    inner = None if top is None else row[top]
    if inner is None and top is not None:
        return None
    return _value(inner, name[len(str(top)) + 1 :]) if isinstance(inner, Mapping) else ABSENT


def _value_or_none(row: Mapping[str, Any], name: str) -> Any:
    value = _value(row, name)
    return None if value is ABSENT else value


def _inside(row: Mapping[str, Any], name: str) -> dict[str, None]:
    """The names, like ``meta.text``, inside the column that ``name`` refers to."""
    top = _top(name, row)
    return {} if top is None or not isinstance(row[top], Mapping) else {f"{top}.{key}": None for key in row[top]}


def _check(where: str, lacking: Sequence[str], known: Iterable[str]) -> None:
    if lacking:
        near = [match for name in lacking for match in difflib.get_close_matches(name, list(known), 1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SourceError(f"{where} lacks the columns {list(lacking)}; it has {list(known)}{hint}")


def labelled(options: Sequence[str], label: Any) -> str:
    """The option with the index ``label``, a whole number from 0 or its digits.

    Raises:
        SourceError: there is no such option.
    """
    number = whole_number(label)
    if number is None or number >= len(options):
        raise SourceError(f"a label must be a whole number from 0 to {len(options) - 1}, not {label!r}")
    return options[number]


def splits(source: Source) -> list[str]:
    """The names of a source's splits.

    Raises:
        SourceError: the data set cannot be loaded, or one of its splits has an unsupported format.
    """
    path = source.path
    if path is not None:
        names = sorted(split_files(path))
        if not names and (folder := picture_folder.read(path)) is not None:
            return sorted(folder.rows)
        for split in {"train", "test", "validation"} - set(names):
            if others := unread(path, split):
                raise SourceError(
                    f"{path}: {others[0]} is not a supported file; convert it to {split}.csv, .jsonl or .parquet"
                )
        return names
    import datasets

    try:
        return list(datasets.get_dataset_split_names(source.name, source.subset, revision=source.revision))
    except Exception as error:
        raise SourceError(f"{_cannot(source.name, error)}") from error


def identity(source: Source) -> Any:
    """What identifies a source in a fingerprint: the content hashes of local files, or the hub name with the commit if
    it is known."""
    if source.path is None:
        commit = hub.commit(source.name, source.revision, "dataset")
        return source.name if commit is None else {"name": source.name, "commit": commit}
    local = sorted(split_files(source.path).items())
    if not local and (folder := picture_folder.read(source.path)) is not None:
        return folder.identity()
    hashes = {split: [store.identity(file) for file in files] for split, files in local}
    return {split: digests[0] if len(digests) == 1 else digests for split, digests in hashes.items()}


def _local(source: str, data_folder: Path | None) -> Path | None:
    """The local folder, file or pattern of a source, or ``None`` if it must come from the hub. A hub name is first
    looked up in ``data_folder``, in full and by its last part.

    Raises:
        SourceError: ``source`` is a path that does not exist, or a folder without data files.
    """
    try:
        path = Path(at_home(source))
    except ValueError as error:
        raise SourceError(str(error)) from error
    if not source.strip() or REMOTE.match(source):
        raise SourceError(f"{source!r} is neither a hub name nor a local folder; copy or mount it")
    candidates = [path, *([data_folder / source, data_folder / path.name] if data_folder else [])]
    for candidate in candidates:
        if split_files(candidate) or picture_folder.read(candidate) is not None:
            return candidate
    if format_of(path) and not path.exists() and not is_pattern(path):
        raise SourceError(f"{source} does not exist{_near(path)}")
    if path.is_file():
        raise SourceError(f"{source} is no {', '.join(READERS)} file; convert it to one of them")
    folders = [folder for folder in candidates if folder.is_dir()]
    if folders or is_pattern(path) or source.startswith((".", "/", "~")):
        contents = sorted(file.name for folder in folders[:1] for file in folder.iterdir())[:5]
        raise SourceError(
            f"{source} is no folder of <split>.parquet, .jsonl or .csv, no such file, and no folder of pictures"
            + (f"; it holds {contents}" if contents else "")
            + next((f"; {inner} is a folder of data" for folder in folders for inner in _folders_of_data(folder)), "")
        )
    return None


def _folders_of_data(folder: Path) -> Iterator[Path]:
    """The folders in a folder that hold data, such as ``data`` of a data set that was downloaded whole."""
    return (inner for inner in sorted(folder.iterdir()) if inner.is_dir() and split_files(inner))


def _near(path: Path) -> str:
    """A hint at a file with a similar name."""
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def usable(rows: Sequence[Row], name: str) -> Sequence[Row]:
    """``rows``, checked to be text.

    Raises:
        SourceError: there are none, or a prompt or response is not text; names the task and the row.
    """
    if not rows:
        raise SourceError(f"{name} has no rows")
    for number, row in enumerate(rows):
        for key in ("prompt", "response"):
            text = dict(row)[key]
            if not isinstance(text, str):
                raise SourceError(f"{name}: the {key} of row {number} is no text but {text!r}")
    return rows


def shuffled(rows: Sequence[Item], limit: int | None, seed: int = 0) -> list[Item]:
    """The first ``limit`` rows after a seeded shuffle; all, in their order, if ``limit`` is ``None``."""
    if limit is None:
        return list(rows)
    import random

    return random.Random(seed).sample(list(rows), min(limit, len(rows)))


def _cannot(source: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"{source} cannot be loaded from the hub: {reason}\n  A local copy works too, a folder of <split>.parquet, "
        f".jsonl or .csv with the hub's columns: data_folder=DIR that contains DIR/{Path(source).name}/, or the task's "
        "source option. Script data sets on the hub load from revision: refs/convert/parquet."
    )
