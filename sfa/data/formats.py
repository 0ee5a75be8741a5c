"""Rows of CSV, JSON Lines and Parquet files, with every value as it stands in the file."""

import csv
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfa.errors import SFAError

READERS = (".parquet", ".jsonl", ".csv")
BATCH = 256  # rows of a Parquet file that are decoded at once


class SourceError(SFAError):
    """A data set that cannot be had, that lacks a column, or whose rows are not what they should be."""


class Written(float):
    """A number that is shown with the digits of its file, like 3.10 or 1e10."""

    text: str

    def __new__(cls, text: str) -> "Written":
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __repr__(self) -> str:
        return self.text


def read_text(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV or JSON Lines file, one after another.

    A cell of a CSV file is its text, whatever it looks like; CSV cannot tell an empty text from a missing value, so an
    empty cell is ``None``. A value of JSON keeps its type, and a number its digits.

    Raises:
        SourceError: the file is not whole, not UTF-8 or not of its format; names the line.
    """
    return _csv(file) if file.suffix == ".csv" else _jsonl(file)


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # texts of any length
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            head = next(reader, [])
            if doubled := sorted({name for name in head if head.count(name) > 1}):
                raise SourceError(f"{file} cannot be read: it has several columns called {', '.join(doubled)}")
            for cells in reader:
                if cells and len(cells) != len(head):
                    raise SourceError(
                        f"{file} cannot be read: the row that ends on line {reader.line_num} has {len(cells)} cells, "
                        f"and the first line {len(head)}"
                    )
                if cells:  # an empty line is no row
                    yield {name: cell or None for name, cell in zip(head, cells, strict=True)}
        except csv.Error as error:
            raise SourceError(f"{file} cannot be read: line {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise SourceError(f"{file} cannot be read: it is not UTF-8: {error}") from error


def _jsonl(file: Path) -> Iterator[dict[str, Any]]:
    decode = json.JSONDecoder(
        object_pairs_hook=_object, parse_float=Written, parse_int=_whole, parse_constant=_no_number
    ).decode
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):  # lines end with \n alone: a text may hold other separators
            if line.isspace():
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = decode(text)
                if "\\u" in text:
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{file} cannot be read: line {number}: {error}") from error
            if not isinstance(row, dict):
                raise SourceError(
                    f"{file} cannot be read: line {number} is no JSON object, with a value for each column"
                )
            yield row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} comes more than once")
    return found


def _whole(text: str) -> int | Written:
    return Written(text) if text == "-0" else int(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no value of JSON")


class ParquetRows(Sequence[dict[str, Any]]):
    """The rows of Parquet files, one file after another, read when they are asked for; fast in ascending order.

    Values are what the files store. What their metadata declare a column to be for some library is not looked at.

    Args:
        files: of one split.
        columns: that are read; all if ``None``.

    Raises:
        SourceError: a file is not whole, or lacks a column that another one has.
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
            except (OSError, ValueError) as error:  # pyarrow's own errors are these
                raise SourceError(f"{path} cannot be read: {error}") from error
            if len(set(names)) < len(names):
                raise SourceError(f"{path} cannot be read: it has several columns of one name among {names}")
            if ends and set(names) != set(self.names):
                raise SourceError(f"{path} has the columns {names}, and {files[0]} has {self.names}")
            self.names = self.names or names
            for group in range(file.num_row_groups):
                self._groups.append((path, file, group))
                ends.append((ends[-1] if ends else 0) + file.metadata.row_group(group).num_rows)
        self.columns, self._ends = self.names if columns is None else list(columns), ends
        self._group, self._start, self._rows = -1, 0, list[dict[str, Any]]()
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

    def _next(self) -> list[dict[str, Any]]:
        try:
            batch: Any = next(self._batches)
            columns = {name: _values(batch.column(name)) for name in self.columns}
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are these
            raise SourceError(f"{self._groups[self._group][0]} cannot be read: {error}") from error
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):  # as few digits as tell it apart
        found = column.to_numpy(zero_copy_only=False)
        return [None if null else Written(str(x)) for x, null in zip(found, np.asarray(column.is_null()), strict=True)]
    return list(column.to_pylist())
