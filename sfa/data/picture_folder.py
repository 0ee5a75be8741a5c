"""Folders of pictures: ``train/<class>/*.jpg``, or pictures with a ``metadata.{csv,jsonl}``, the hub's imagefolder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfa import store
from sfa.data.folder import SPLITS
from sfa.data.formats import SourceError, SourceRow, read_text

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"  # column of the metadata: a picture's path relative to them
OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder.

    Attributes:
        folder: the folder.
        rows: by split, each picture's ``image``, its path, with its ``label`` or the columns of its metadata.
        names: the classes, sorted; empty if the labels are numbers. A row's label is its class's name.
    """

    folder: Path
    rows: Mapping[str, Sequence[SourceRow]]
    names: tuple[str, ...]

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
    if not rows:
        return None
    labels = {row["label"] for of_split in rows.values() for row in of_split if "label" in row}
    named = labels and all(isinstance(label, str) and not label.isdigit() for label in labels)
    return PictureFolder(folder, rows, tuple(sorted(labels)) if named else ())


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
