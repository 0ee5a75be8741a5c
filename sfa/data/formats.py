"""Rows of CSV, JSON Lines, JSON and Parquet files, with every value as written in the file."""

import bz2
import csv
import gzip
import json
import lzma
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sfa.errors import SFAError

READERS = (".parquet", ".jsonl", ".json", ".csv")
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # of compressed text files
BATCH = 256  # rows of a Parquet file that are decoded at once

SourceRow = dict[str, Any]  # columns as csv, json and pyarrow read them


class SourceError(SFAError):
    """A data set that cannot be loaded, lacks a column, or has invalid rows."""


class Written(float):
    """A number that prints as written in its file, like 3.10 or 1e10."""

    text: str

    def __new__(cls, text: str) -> "Written":
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __repr__(self) -> str:
        return self.text


def format_of(file: Path) -> str:
    """The suffix of a data file's format: ``.jsonl`` of ``train.jsonl`` and of ``train.jsonl.gz``; empty if it is not
    supported."""
    inner = Path(file.stem).suffix if file.suffix in OPENERS else file.suffix
    return inner if inner in READERS and not (inner == ".parquet" and file.suffix in OPENERS) else ""


def stem_of(file: Path) -> str:
    """The name of a data file without the suffixes of its format and compression."""
    return Path(file.stem).stem if file.suffix in OPENERS else file.stem


def read_text(file: Path) -> Iterator[SourceRow]:
    """The rows of a CSV, JSON or JSON Lines file, which may be compressed, one after another.

    A CSV cell is always text; CSV does not distinguish an empty text from a missing value, so an empty cell is
    ``None``. A JSON value keeps its type, and a number its digits.

    Raises:
        SourceError: the file is truncated, not UTF-8 or malformed; names the line.
    """
    read = {".csv": _csv, ".jsonl": _jsonl, ".json": _json}[format_of(file)]
    return _decompressed(file, read(file)) if file.suffix in OPENERS else read(file)


def _decompressed(file: Path, rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
    """``rows`` of a compressed file, whose damage is an error of the data."""
    try:
        yield from rows
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:  # what the three packages raise
        raise SourceError(f"{file} cannot be read: {error}") from error


def _text_stream(file: Path) -> IO[str]:
    """A text file, with line breaks as they are."""
    opener = OPENERS.get(file.suffix, open)
    stream: IO[str] = opener(file, "rt", encoding="utf-8-sig", newline="")
    return stream


def _csv(file: Path) -> Iterator[SourceRow]:
    csv.field_size_limit(2**31 - 1)  # texts of any length
    with _text_stream(file) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            head = next(reader, [])
            if doubled := sorted({name for name in head if head.count(name) > 1}):
                raise SourceError(f"{file} cannot be read: it has several columns named {', '.join(doubled)}")
            for cells in reader:
                if cells and len(cells) != len(head):
                    raise SourceError(
                        f"{file} cannot be read: the row that ends on line {reader.line_num} has {len(cells)} cells, "
                        f"and the first line {len(head)}"
                    )
                if cells:  # an empty line is not a row
                    yield {name: cell or None for name, cell in zip(head, cells, strict=True)}
        except csv.Error as error:
            raise SourceError(f"{file} cannot be read: line {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise SourceError(f"{file} cannot be read: it is not UTF-8: {error}") from error


def _json(file: Path) -> Iterator[SourceRow]:
    """The rows of a JSON file: a list of objects, an object with one such list among its values, or, as often, JSON
    Lines."""
    try:
        with _text_stream(file) as stream:
            text = stream.read()
        content = _decode(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate is not text
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _jsonl(file)
            return
        raise SourceError(f"{file} cannot be read: {error}") from error
    named = {"": content} if isinstance(content, list) else {}
    if isinstance(content, dict):
        named = {name: value for name, value in content.items() if _is_rows(value)}
    if len(named) != 1:
        several = f", but holds {', '.join(named)}: write each to a file of its own" if named else ""
        raise SourceError(f"{file} cannot be read: it is not an array of JSON objects{several}")
    (rows,) = named.values()
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise SourceError(f"{file} cannot be read: row {number} is not a JSON object with a value for each column")
        yield row


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _jsonl(file: Path) -> Iterator[SourceRow]:
    with OPENERS.get(file.suffix, open)(file, "rb") as stream:
        for number, line in enumerate(stream, 1):  # lines end only with \n: a text may contain other separators
            if line.isspace():
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = _decode(text)
                if "\\u" in text:
                    json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate is not text
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{file} cannot be read: line {number}: {error}") from error
            if not isinstance(row, dict):
                raise SourceError(
                    f"{file} cannot be read: line {number} is not a JSON object with a value for each column"
                )
            yield row


def _decode(text: str) -> Any:
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_float=Written, parse_int=_integer, parse_constant=_refuse_constant
    ).decode(text)


def _object(items: list[tuple[str, Any]]) -> SourceRow:
    values = dict(items)
    if len(values) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} occurs more than once")
    return values


def _integer(text: str) -> int | Written:
    return Written(text) if text == "-0" else int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON value")


def whole_number(value: Any) -> int | None:
    """A whole number from 0, or its digits; ``None`` if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if digits and str(int(value)) == value else None


class ParquetRows(Sequence[SourceRow]):
    """The rows of Parquet files, one file after another, read lazily; efficient in ascending order.

    Values are as stored in the files. Column types that their metadata declares for other libraries are ignored.

    Args:
        files: those of one split.
        columns: the columns to read; all if ``None``.

    Raises:
        SourceError: a file is truncated, or lacks a column that another one has.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str] | None = None):
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        self.names: list[str] = []
        self._groups: list[tuple[Path, Any, int]] = []  # a file and one of its row groups
        ends: list[int] = []
        for path in files:
            try:
                file = pq.ParquetFile(path, memory_map=True)
                names = list(file.schema_arrow.names)
            except (OSError, ValueError) as error:  # what pyarrow raises
                raise SourceError(f"{path} cannot be read: {error}") from error
            if len(set(names)) < len(names):
                raise SourceError(f"{path} cannot be read: it has duplicate column names among {names}")
            if ends and set(names) != set(self.names):
                raise SourceError(f"{path} has the columns {names}, and {files[0]} has {self.names}")
            self.names = self.names or names
            for group in range(file.num_row_groups):
                self._groups.append((path, file, group))
                ends.append((ends[-1] if ends else 0) + file.metadata.row_group(group).num_rows)
        self.columns, self._ends = self.names if columns is None else list(columns), ends
        self._group, self._start, self._rows = -1, 0, list[SourceRow]()
        self._batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        row = range(len(self))[place]
        group = bisect_right(self._ends, row)
        if group != self._group or row < self._start:
            _, file, number = self._groups[group]
            self._batches = file.iter_batches(BATCH, [number], self.columns, use_threads=False)
            self._group, self._start, self._rows = group, self._ends[group - 1] if group else 0, []
        while row >= self._start + len(self._rows):
            self._start, self._rows = self._start + len(self._rows), self._next()
        return self._rows[row - self._start]

    def _next(self) -> list[SourceRow]:
        try:
            batch: Any = next(self._batches)
            columns = {name: _values(batch.column(name)) for name in self.columns}
        except (OSError, ValueError, NotImplementedError) as error:  # what pyarrow raises
            raise SourceError(f"{self._groups[self._group][0]} cannot be read: {error}") from error
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def parquet_class_names(file: Path, column: str) -> list[str]:
    """The names of a column's classes in the metadata that ``datasets`` writes; empty if there are none.

    Raises:
        SourceError: the file is truncated.
    """
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, ValueError) as error:  # what pyarrow raises
        raise SourceError(f"{file} cannot be read: {error}") from error
    about = json.loads(metadata.get(b"huggingface", b"{}"))
    return list(about.get("info", {}).get("features", {}).get(column, {}).get("names") or ())


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):  # the shortest digits that identify it
        numbers = column.to_numpy(zero_copy_only=False)
        return [
            None if null else Written(str(x)) for x, null in zip(numbers, np.asarray(column.is_null()), strict=True)
        ]
    return list(column.to_pylist())
