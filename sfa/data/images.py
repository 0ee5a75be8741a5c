"""Tasks of labelled images, and streams that split one data set by label."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from sfa.data import picture_folder, pictures
from sfa.data.decoding import content, decode
from sfa.data.folder import split_files
from sfa.data.source import SourceError, column, find, whole_number
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import TASKS, Split, Task, data_folder_of
from sfa.values import Checked, Overrides, Spec

__all__ = ["ImageRow", "ImageTask", "Images", "LabelSplit", "decode", "place"]
MOST_CLASSES = 1_000_000
ImageRow = Mapping[str, Any]  # ``image``: what :func:`decode` reads; ``label``: 0 … classes − 1


class ImageTask(Task):
    """Images to classify, scored by the accuracy on the held-out ones. One head has an output for every label of the
    whole data set, so a model trained on only some labels predicts only those."""

    classes: int = Field(ge=2, le=MOST_CLASSES, description="labels of the whole data set: outputs of the head")
    labels: tuple[int, ...] | None = Field(None, description="this task's labels; null: all")
    augment: bool = Field(False, description="random resized crops and horizontal flips while training")
    skip_unreadable: bool = Field(False, description="leave out images that cannot be read, instead of stopping")

    @model_validator(mode="before")
    @classmethod
    def _scored_by_accuracy(cls, options: Any) -> Any:
        return {"evals": [*cls.declares(options["name"])], **options} if "name" in options else options

    @classmethod
    def declares(cls, name: str) -> dict[str, str]:
        return {f"{name}_accuracy": "accuracy"}

    def class_names(self) -> tuple[str, ...]:
        """The names of the head's outputs; empty if they are not known."""
        return ()

    @model_validator(mode="after")
    def _labels_of_the_head(self) -> "ImageTask":
        if self.labels is not None and not set(self.labels) <= set(range(self.classes)):
            raise ValueError(f"labels: must lie in 0 … {self.classes - 1}, not {list(self.labels)}")
        return self

    @abstractmethod
    def rows(self, split: Split) -> Sequence[ImageRow]:
        """The images of this task's labels, the same on every call."""

    def own_labels(self) -> tuple[int, ...]:
        return tuple(range(self.classes)) if self.labels is None else self.labels

    def data_spec(self) -> Spec:
        spec = super().data_spec()
        return {key: value for key, value in spec.items() if key != "skip_unreadable"}


class Images(ImageTask, SourcedTask):
    """Any image data set with a label column, from the hub or a folder, or a folder of pictures,
    ``train/<class>/*.jpg``, whose classes need not be given."""

    image: str = Field("image", description="column of the images")
    label: str = Field("label", description="column of the labels, whole numbers from 0 or one of names")
    names: tuple[str, ...] | None = Field(
        None, description="of the classes, in the order of the head's outputs; null: those of a folder of pictures"
    )

    @model_validator(mode="before")
    @classmethod
    def _classes_of_a_folder(cls, options: Any, info: ValidationInfo) -> Any:
        """Fills in ``names`` and ``classes`` of a folder of pictures."""
        if not isinstance(options.get("source"), str):
            return options
        if options.get("names") is None:
            path = find(options["source"], data_folder_of(info.context)).path
            folder = None if path is None or split_files(path) else picture_folder.read(path)
            label = str(options.get("label", "label"))
            if folder is not None and (named := folder.names(label)):
                options = {**options, "names": named}
            elif folder is not None and (count := folder.classes(label)) is not None:
                options = {"classes": count, **options}
            elif folder is not None and "classes" not in options:
                raise ValueError(f"label: {options['source']} has no column {label} with classes: {folder.columns()}")
        names = options.get("names")
        return {"classes": len(names), **options} if isinstance(names, list | tuple) else options

    @model_validator(mode="after")
    def _one_name_for_each_class(self) -> "Images":
        if self.names is not None and not len({*self.names}) == len(self.names) == self.classes:
            raise ValueError(f"names: must be {self.classes} different ones, one for each class, not {len(self.names)}")
        return self

    def class_names(self) -> tuple[str, ...]:
        return self.names or ()

    def rows(self, split: Split) -> Sequence[ImageRow]:
        """Without a ``test`` or ``validation`` split, one in ten of this task's images in ``train`` is held out, by its
        content: see :func:`sfa.data.holdout.draw`."""
        test = self.held_out_split()
        self.check_fraction(test)
        source_split = test if test is not None and split == "test" else "train"
        labels = np.array([self._label(row[self.label]) for row in self.read(source_split, [self.label])], np.int64)
        images = column(self._source, source_split, self.image)
        chosen = np.flatnonzero(np.isin(labels, self.own_labels()))
        if test is None and len(chosen):
            hashes = [hashlib.sha256(content(images[i])).hexdigest() for i in chosen.tolist()]
            held_out = np.array(self.hold_out({"images": hashes}, 10, f"{self.name}: train of {self.source}"))
            chosen = chosen[held_out == (split == "test")]
        if split == "train" and self.limit is not None:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[: self.limit])
        return _Chosen(images, labels, chosen)

    def data_spec(self) -> Spec:
        """Without names as before there were any, so that finished stages remain valid."""
        spec = super().data_spec()
        if self.names is None:
            del spec["names"]
        if self._source.path is None:
            return spec
        names = dict.fromkeys(["train", self.held_out_split() or "train"])
        named = pictures.identity(self._source, list(names), self.image)
        return spec if named is None else {**spec, "pictures": named}

    def _label(self, value: Any) -> int:
        named = value if self.names is None or value not in self.names else self.names.index(value)
        label = whole_number(named)
        if label is None or label >= self.classes:
            wanted = f"whole numbers from 0 to {self.classes - 1}" + (" or names" if self.names else "")
            raise SourceError(f"{self.source}: {self.label} must hold {wanted}, not {value!r}")
        return label


class _Chosen(Sequence[ImageRow]):
    """A selection of the images, read lazily."""

    def __init__(self, images: Sequence[Any], labels: NDArray[np.int64], chosen: NDArray[np.int64]):
        self.images, self.labels, self.chosen = images, labels, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, place: Any) -> Any:
        row = int(self.chosen[place])
        return {"image": self.images[row], "label": int(self.labels[row])}


def place(row: ImageRow, number: int) -> str:
    """Names an image in an error: its file and row, or only its row."""
    image = row["image"]
    path = image.get("path") if isinstance(image, Mapping) else image if isinstance(image, str) else None
    return f"{path} (row {number})" if path else f"row {number}"


class LabelSplit(Checked):
    """One line of a config that defines many tasks: ``{split: ethz/food101, classes: 101, into: 20}``. Further options
    are passed to each task."""

    model_config = ConfigDict(extra="allow", frozen=True)

    split: str = Field(description="a registered task, a hub name, or a folder")
    name: str | None = Field(
        None, description="prefix of the tasks' names, before their number; null: the last part of split"
    )
    into: int | None = Field(
        None, ge=1, description="how many tasks, with equally many labels; left-over labels are unused"
    )
    per_task: int | None = Field(None, ge=1, description="labels of a task; null: as many as fit")
    shuffle: int | None = Field(None, description="seed for shuffling the labels before grouping; null: in order")
    groups: list[list[int]] | None = Field(None, description="labels of each task, instead of into")
    names: list[str] | None = Field(None, description="names of the tasks, instead of numbered ones")
    order: int | list[int] | None = Field(None, description="of the tasks: a seed, or indices from 0")
    trained: list[int] | None = Field(None, description="places of the tasks to train, the others are only evaluated")

    def entries(self) -> list[Overrides]:
        """The options of each task.

        Raises:
            ValueError: the options are inconsistent.
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
        tasks = [tasks[i] for i in self._order(len(tasks))]
        if self.trained is None:
            return tasks
        if not self.trained or not {*self.trained} <= {*range(len(tasks))}:
            raise ValueError(f"trained: must name places from 0 to {len(tasks) - 1}, at least one")
        return [{**task, "evaluate_only": i not in self.trained} for i, task in enumerate(tasks)]

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
