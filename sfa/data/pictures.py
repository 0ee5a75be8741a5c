"""Images that a data set refers to by file path: their contents are part of the data set's identity."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfa import store
from sfa.data.folder import files_of, split_files
from sfa.data.source import Source, column


def identity(source: Source, names: Sequence[str], images: str) -> str | None:
    """Hash of the paths in a local data set's image column and of the files' contents, in order; ``None`` if all images
    are embedded in the data set.

    Args:
        source: the data set.
        names: its splits.
        images: name of the image column.
    """
    assert source.path is not None, "only local data sets refer to files"
    if not split_files(source.path):  # a folder of pictures, which its own identity covers
        return None
    files = {name: files_of(source.path, name) or [] for name in names}
    contents: list[tuple[str, str | None]] = []
    for name in names:
        if not _holds_bytes(files[name], images):
            contents += _named(column(source, name, images))
    return store.fingerprint(contents) if contents else None


def _named(images: Iterable[Any]) -> list[tuple[str, str | None]]:
    """The path of each image that is a path, and the hash of its file if it exists."""
    unread = (
        image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else image for image in images
    )
    paths = [image for image in unread if isinstance(image, str)]
    return [(path, store.identity(Path(path)) if Path(path).is_file() else None) for path in paths]


def _holds_bytes(files: Sequence[Path], name: str) -> bool:
    """Whether the metadata of Parquet files shows bytes in every row of the column, so that it need not be read."""
    if files[0].suffix != ".parquet":
        return False
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    for file in files:
        parquet = pq.ParquetFile(file)
        kind = parquet.schema_arrow.field(name).type if name in parquet.schema_arrow.names else None
        binary = kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        wanted = name if binary else f"{name}.bytes"
        for group in range(parquet.num_row_groups):
            chunks = (parquet.metadata.row_group(group).column(i) for i in range(parquet.metadata.num_columns))
            chunk = next((chunk for chunk in chunks if chunk.path_in_schema == wanted), None)
            if chunk is None or chunk.statistics is None or chunk.statistics.null_count != 0:
                return False
    return True
