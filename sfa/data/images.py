"""Tasks of labelled images, and streams that are one data set split by label."""

import io
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field, model_validator

from sfa.data.source import SourcedTask, SourceError, load, splits
from sfa.data.task import TASKS, Split, Task, held_out
from sfa.values import Checked

MOST_CLASSES = 1_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # the rarer a format, the less its reader was attacked and mended
ImageRow = Mapping[str, Any]  # ``image``: what :func:`decode` reads; ``label``: 0 … classes − 1


class ImageTask(Task):
    """Images to classify, scored by the accuracy on the held-out ones. One head has an output for every label of the
    whole data set, so a model that was trained on some labels alone takes nothing else for the answer."""

    classes: int = Field(ge=2, le=MOST_CLASSES, description="labels of the whole data set: outputs of the head")
    labels: tuple[int, ...] | None = Field(None, description="this task's own labels; null: all")
    augment: bool = Field(False, description="random resized crops and horizontal flips while training")
    skip_unreadable: bool = Field(False, description="leave out images that cannot be read, instead of stopping")

    @model_validator(mode="before")
    @classmethod
    def _scored_by_accuracy(cls, options: Any) -> Any:
        return {"evals": [f"{options['name']}_accuracy"], **options} if "name" in options else options

    @model_validator(mode="after")
    def _labels_of_the_head(self) -> "ImageTask":
        if self.labels is not None and not set(self.labels) <= set(range(self.classes)):
            raise ValueError(f"labels: must lie in 0 … {self.classes - 1}, not {list(self.labels)}")
        return self

    @abstractmethod
    def rows(self, split: Split) -> Sequence[ImageRow]:
        """The images of this task's labels, the same at every call."""

    def own_labels(self) -> tuple[int, ...]:
        return tuple(range(self.classes)) if self.labels is None else self.labels

    def data_spec(self) -> dict[str, Any]:
        spec = super().data_spec()
        return {key: value for key, value in spec.items() if key != "skip_unreadable"}


class Images(ImageTask, SourcedTask):
    """Any image data set with a label column, from the hub or a folder."""

    image: str = Field("image", description="column of the images")
    label: str = Field("label", description="column of the labels, whole numbers from 0")

    def rows(self, split: Split) -> Sequence[ImageRow]:
        """Without a ``test`` or ``validation`` split, one image in ten of ``train`` is held out, by its place."""
        import datasets

        own = splits(self.source, self.data_folder, self.subset, self.revision)
        test = next((name for name in ("test", "validation") if name in own), None)
        wanted = split if split == "train" or test is None else test
        data = load(
            self.source,
            wanted if test is not None else "train",
            [self.image, self.label],
            self.data_folder,
            self.subset,
            self.revision,
        )
        if isinstance(data.features[self.image], datasets.Image):
            data = data.cast_column(self.image, datasets.Image(decode=False))
        labels = np.array(data[self.label])
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.classes:
            raise SourceError(f"{self.source}: {self.label} must hold whole numbers from 0 to {self.classes - 1}")
        chosen = np.flatnonzero(np.isin(labels, self.own_labels()))
        if test is None:
            chosen = np.array([i for i in chosen if held_out(str(i), 1) == (split == "test")], int)
        if split == "train" and self.limit is not None:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[: self.limit])
        found = data.select(chosen).rename_columns({self.image: "image", self.label: "label"})
        return cast(Sequence[ImageRow], found)


def decode(image: Any, channels: int) -> NDArray[np.uint8]:
    """``[channels, height, width]`` of a PIL image, an array, an encoded file's bytes or its path.

    Raises:
        OSError: the bytes or the file are no image of a common format.
    """
    if isinstance(image, Mapping):
        image = image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"])
    elif isinstance(image, bytes):
        image = io.BytesIO(image)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        image = Image.open(image, formats=FORMATS)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def place(row: ImageRow, number: int) -> str:
    """Names an image in an error: its file, or its place in the split."""
    image = row["image"]
    path = image.get("path") if isinstance(image, Mapping) else image if isinstance(image, str) else None
    return f"{path} (row {number})" if path else f"row {number}"


class LabelSplit(Checked):
    """One line of a config that stands for many tasks: ``{split: ethz/food101, classes: 101, into: 20}``. Options that
    are not here are those of each task."""

    model_config = ConfigDict(extra="allow", frozen=True)

    split: str = Field(description="a registered task, a hub name, or a folder")
    name: str | None = Field(None, description="of the tasks, before their number; null: the last part of split")
    into: int | None = Field(None, ge=1, description="how many tasks, of as many labels each; the rest is in none")
    per_task: int | None = Field(None, ge=1, description="labels of a task; null: as many as fit")
    shuffle: int | None = Field(
        None, description="seed of the labels' order before they are grouped; null: as they are"
    )
    groups: list[list[int]] | None = Field(None, description="the labels of each task, instead of into")
    names: list[str] | None = Field(None, description="of the tasks, instead of numbers")
    order: int | list[int] | None = Field(None, description="of the tasks: a seed, or places counted from 0")

    def entries(self) -> list[dict[str, Any]]:
        """The options of each task.

        Raises:
            ValueError: the parts do not fit together.
        """
        kind = TASKS.get(self.split)
        extra = dict(self.model_extra or {})
        classes = extra.get(
            "classes", kind.model_fields["classes"].default if kind and issubclass(kind, ImageTask) else None
        )
        if not isinstance(classes, int) or not 2 <= classes <= MOST_CLASSES:
            what = "labels of the whole data set: outputs of the head"
            raise ValueError(f"classes: must be a number from 2 to {MOST_CLASSES:,}, not {classes!r} ({what})")
        groups = self._groups(classes)
        stem = self.name or Path(self.split).name
        width = len(str(len(groups)))
        names = self.names or [f"{stem}_{k:0{width}d}" for k in range(1, len(groups) + 1)]
        if len(names) != len(groups):
            raise ValueError(f"names: must be {len(groups)}, one for each task, not {len(names)}")
        shared = {**extra, "classes": classes, **({} if kind else {"source": self.split})}
        tasks = [{**shared, "name": name, "labels": group} for name, group in zip(names, groups, strict=True)]
        return [tasks[i] for i in self._order(len(tasks))]

    def _groups(self, classes: int) -> list[list[int]]:
        if (self.groups is None) == (self.into is None):
            raise ValueError("give either into (how many tasks) or groups (the labels of each)")
        if self.groups is not None:
            labels = [label for group in self.groups for label in group]
            if len(set(labels)) < len(labels):
                raise ValueError("groups: a label may be in one task only")
            return self.groups
        assert self.into is not None
        size = self.per_task or classes // self.into
        if size < 1 or size * self.into > classes:
            raise ValueError(f"into: {self.into} tasks of {max(size, 1)} labels need more than the {classes} there are")
        order = list(range(classes))
        if self.shuffle is not None:
            order = np.random.default_rng(self.shuffle).permutation(classes).tolist()
        return [order[k * size : (k + 1) * size] for k in range(self.into)]

    def _order(self, count: int) -> list[int]:
        if self.order is None:
            return list(range(count))
        if isinstance(self.order, int):
            return [int(i) for i in np.random.default_rng(self.order).permutation(count)]
        if sorted(self.order) != list(range(count)):
            raise ValueError(f"order: must hold each of 0 … {count - 1} once")
        return self.order
