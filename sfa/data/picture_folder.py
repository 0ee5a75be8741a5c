"""Folders of pictures: ``train/<class>/*.jpg``, or pictures with a ``metadata.{csv,jsonl}``, the hub's imagefolder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfa import store
from sfa.data.folder import FILE_NAME, METADATA, SPLITS
from sfa.data.formats import SourceError, SourceRow, read_text, whole_number

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder.

    Attributes:
        folder: the folder.
        rows: by split, each picture's ``image``, its path, with its ``label`` or the columns of its metadata.
    """

    folder: Path
    rows: Mapping[str, Sequence[SourceRow]]

    def names(self, label: str) -> tuple[str, ...]:
        """The classes in the column ``label``, sorted; empty if they are numbers."""
        labels = self._labels(label)
        named = all(isinstance(value, str) for value in labels) and None in map(whole_number, labels)
        return tuple(sorted(map(str, labels))) if named else ()

    def classes(self, label: str) -> int | None:
        """The number of classes, if the labels are numbers from 0."""
        numbers = [number for value in self._labels(label) if (number := whole_number(value)) is not None]
        return max(numbers) + 1 if numbers else None

    def columns(self) -> list[str]:
        """The columns of all rows."""
        return list(dict.fromkeys(key for rows in self.rows.values() for row in rows for key in row))

    def _labels(self, label: str) -> set[Any]:
        return {row[label] for rows in self.rows.values() for row in rows if row.get(label) is not None}

    def identity(self) -> str:
        """Hash of the pictures' contents with their places in the folder and their labels."""
        return store.fingerprint(
            [
                [split, str(Path(row["image"]).relative_to(self.folder)), store.identity(Path(row["image"])), *labels]
                for split, rows in sorted(self.rows.items())
                for row in rows
                for labels in [[str(value) for key, value in sorted(row.items()) if key != "image"]]
            ]
        )


def read(folder: Path) -> PictureFolder | None:
    """The pictures of a folder; ``None`` if it holds none in one of these layouts.

    Raises:
        SourceError: a picture that the metadata name does not exist.
    """
    if not folder.is_dir():
        return None
    splits = {OTHER_NAMES.get(sub.name, sub.name): sub for sub in sorted(folder.iterdir()) if sub.is_dir()}
    splits = {name: sub for name, sub in splits.items() if name in SPLITS}
    rows = {name: _rows(sub) for name, sub in (splits or {"train": folder}).items()}
    rows = {name: of_split for name, of_split in rows.items() if of_split}
    return PictureFolder(folder, rows) if rows else None


def _rows(folder: Path) -> list[SourceRow]:
    metadata = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if metadata is None:
        classes = [sub for sub in sorted(folder.iterdir()) if sub.is_dir()]
        return [{"image": str(file), "label": sub.name} for sub in classes for file in _pictures(sub)]
    rows: list[SourceRow] = []
    for row in read_text(metadata):
        file = folder / str(row.get(FILE_NAME))
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            raise SourceError(f"{metadata}: {FILE_NAME} must name a picture below {folder}, not {row.get(FILE_NAME)!r}")
        rows.append({"image": str(file), **{key: value for key, value in row.items() if key != FILE_NAME}})
    return rows


def _pictures(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in PICTURES and file.is_file()]
