"""Rows of a data set from the hub, or from a folder of ``<split>.{parquet,jsonl,csv}`` with the hub's columns."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, PrivateAttr

from sfa import hub, store
from sfa.data.folder import split_files, unread
from sfa.data.formats import ParquetRows, SourceError, SourceRow, read_text
from sfa.data.holdout import draw
from sfa.data.task import Row, Split, Task, data_folder_of
from sfa.values import REMOTE, Spec, at_home

Item = TypeVar("Item")

__all__ = [
    "Source",
    "SourceError",
    "SourcedTask",
    "column",
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
        folder: local folder; ``None``: it comes from the hub.
        subset: the hub's configuration name.
        revision: the hub's branch, tag or commit.
    """

    name: str
    folder: Path | None
    subset: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return str(self.folder or self.name)


def find(name: str, data_folder: Path | None, subset: str | None = None, revision: str | None = None) -> Source:
    """The data set of a hub name or path.

    Raises:
        SourceError: ``name`` is a path that does not exist, or a folder without data files.
    """
    return Source(name, _local(name, data_folder), subset, revision)


class SourcedTask(Task):
    """A task whose rows come from the hub or a folder."""

    source: str = Field(description="hub name, or a folder of <split>.{parquet,jsonl,csv}")
    subset: str | None = Field(None, description="the hub's configuration name")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    limit: int | None = Field(None, ge=1, description="rows to train on, the first after a seeded shuffle; null: all")
    _source: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._source = find(self.source, data_folder_of(context), self.subset, self.revision)

    def read(self, split: str, columns: Sequence[str]) -> list[SourceRow]:
        """The rows of one of the source's splits."""
        return load(self._source, split, columns)

    def held_out_split(self) -> str | None:
        """The name of the source's test or validation split, if it has one."""
        available = splits(self._source)
        return next((name for name in ("test", "validation") if name in available), None)

    def split_rows(
        self,
        split: Split,
        columns: Sequence[str],
        examples: Callable[[SourceRow], list[Row]],
        train: str = "train",
        test: str | None = None,
    ) -> list[Row]:
        """The examples of a split, at most ``limit`` of them for training.

        Args:
            split: the task's split.
            columns: those that ``examples`` needs.
            examples: returns the examples of one source row; they share a prompt.
            train: the source's training split.
            test: the source's held-out split; ``None``: ``test`` or ``validation``. Without either, one
                example in fifty of ``train`` is held out, by its prompt: see :func:`sfa.data.holdout.draw`.
        """
        test = test or self.held_out_split()
        source_split = test if test is not None and split == "test" else train
        examples_by_row: list[list[Row]] = []
        for number, values in enumerate(self.read(source_split, columns)):
            try:
                examples_by_row += [rows] if (rows := examples(values)) else []
            except (TypeError, KeyError, IndexError, AttributeError) as error:
                reason = f"the columns {', '.join(columns)} do not hold what the task reads"
                raise SourceError(
                    f"{self.name}: row {number} of {source_split} of {self.source}: {reason}: {error}"
                ) from error
        if test is None and examples_by_row:
            usable([row for rows in examples_by_row for row in rows], self.name)
            prompts = [rows[0]["prompt"] for rows in examples_by_row]
            whole_rows = [
                "\n".join([prompt, *(row["response"] for row in rows)])
                for prompt, rows in zip(prompts, examples_by_row, strict=True)
            ]
            held_out = draw(
                {"prompts": prompts, "whole rows": whole_rows}, 50, f"{self.name}: {train} of {self.source}"
            )
            examples_by_row = [
                rows
                for rows, is_held_out in zip(examples_by_row, held_out, strict=True)
                if is_held_out == (split == "test")
            ]
        return shuffled([row for rows in examples_by_row for row in rows], self.limit if split == "train" else None)

    def data_spec(self) -> Spec:
        return {**super().data_spec(), "source": identity(self._source)}


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
    rows, known = open_rows(source, split, [*columns, *optional])
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


def column(source: Source, split: str, name: str) -> Sequence[Any]:
    """The values of one column of a split, ``None`` where missing. Parquet files and hub data are read lazily,
    efficiently in ascending order. Arguments and errors as for :func:`load`."""
    rows, known = open_rows(source, split, [name])
    values = [_value_or_none(row, name) for row in rows] if isinstance(rows, Iterator) else _Column(rows, name)
    lacking = [name] if _top(name, known) is None else []
    _check(f"{source} ({split})", lacking, known)
    return values


class _Column(Sequence[Any]):
    def __init__(self, rows: Any, name: str):
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return _value_or_none(self.rows[place], self.name)


def open_rows(
    source: Source, split: str, columns: Sequence[str]
) -> tuple[Iterable[Mapping[str, Any]], dict[str, None]]:
    """The rows of a split, with those of the named columns that exist, and the names of all columns. Rows of text files
    are an iterator, which adds the names as it reads; others are a lazily read sequence.

    Raises:
        SourceError: the data set or the split does not exist, has no rows, or cannot be read.
    """
    folder = source.folder
    if folder is None:
        data = _hub(source, split)
        known = dict.fromkeys(data.column_names)
        return data.select_columns(_tops(columns, known)), known
    files = split_files(folder).get(split)
    if files is None:
        others = "".join(f"; {name} is not read" for name in unread(folder, split))
        raise SourceError(f"{folder} has no {split}.parquet, .jsonl or .csv, but {sorted(split_files(folder))}{others}")
    if files[0].suffix != ".parquet":
        known = {}
        return _text_rows(files, known), known
    known = dict.fromkeys(ParquetRows(files, []).names)
    rows = ParquetRows(files, _tops(columns, known))
    if not len(rows):
        raise SourceError(f"{files[0]} cannot be read: it holds no rows")
    return rows, known


def _text_rows(files: Sequence[Path], known: dict[str, None]) -> Iterator[SourceRow]:
    empty = True
    for file in files:
        for row in read_text(file):
            known.update(dict.fromkeys(row))
            yield row
            empty = False
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


def whole_number(value: Any) -> int | None:
    """A whole number from 0, or its digits; ``None`` if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if digits and str(int(value)) == value else None


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
    folder = source.folder
    if folder is not None:
        names = sorted(split_files(folder))
        for split in {"train", "test", "validation"} - set(names):
            if others := unread(folder, split):
                raise SourceError(
                    f"{folder}: {others[0]} is not a supported file; convert it to {split}.csv, .jsonl or .parquet"
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
    if source.folder is None:
        commit = hub.commit(source.name, source.revision, "dataset")
        return source.name if commit is None else {"name": source.name, "commit": commit}
    local = sorted(split_files(source.folder).items())
    hashes = {split: [store.identity(file) for file in files] for split, files in local}
    return {split: digests[0] if len(digests) == 1 else digests for split, digests in hashes.items()}


def _local(source: str, data_folder: Path | None) -> Path | None:
    """The local folder of a source, or ``None`` if it must come from the hub. A hub name is first looked up in
    ``data_folder``, in full and by its last part.

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
    folders = [folder for folder in candidates if folder.is_dir()]
    for folder in folders:
        if split_files(folder):
            return folder
    if folders or Path(source).is_file() or source.startswith((".", "/", "~")):
        contents = sorted(file.name for folder in folders[:1] for file in folder.iterdir())[:5]
        raise SourceError(
            f"{source} is no folder of <split>.parquet, .jsonl or .csv" + (f"; it holds {contents}" if contents else "")
        )
    return None


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
