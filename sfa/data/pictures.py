"""Images that a data set names by the path of a file: what is in them is part of what the data set is."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfa import store
from sfa.data.folder import split_files
from sfa.data.source import Source, column


def identity(source: Source, names: Sequence[str], images: str) -> str | None:
    """Hash of the files that a local data set's column of images names, and of their content, in their order; ``None``
    where all images are in the data set itself.

    Args:
        source: the data set.
        names: of its splits.
        images: name of the column.
    """
    assert source.folder is not None, "only local data sets name files"
    files = split_files(source.folder)
    found: list[tuple[str, str | None]] = []
    for name in names:
        if not _holds_bytes(files[name], images):
            found += _named(column(source, name, images))
    return store.fingerprint(found) if found else None


def _named(images: Iterable[Any]) -> list[tuple[str, str | None]]:
    """The path of each image that is one, and the hash of its file, if there is one."""
    unread = (
        image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else image for image in images
    )
    paths = [image for image in unread if isinstance(image, str)]
    return [(path, store.identity(Path(path)) if Path(path).is_file() else None) for path in paths]


def _holds_bytes(files: Sequence[Path], name: str) -> bool:
    """Whether Parquet files say of themselves that the column holds bytes in every row, so that it need not be read."""
    if files[0].suffix != ".parquet":
        return False
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    for file in files:
        about = pq.ParquetFile(file)
        kind = about.schema_arrow.field(name).type if name in about.schema_arrow.names else None
        binary = kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        wanted = name if binary else f"{name}.bytes"
        for group in range(about.num_row_groups):
            parts = (about.metadata.row_group(group).column(i) for i in range(about.metadata.num_columns))
            part = next((part for part in parts if part.path_in_schema == wanted), None)
            if part is None or part.statistics is None or part.statistics.null_count != 0:
                return False
    return True
