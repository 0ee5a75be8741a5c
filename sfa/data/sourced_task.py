"""Tasks whose rows come from the hub or from local files, and which of them they hold out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, PrivateAttr

from sfa.data.formats import SourceRow
from sfa.data.holdout import draw
from sfa.data.source import Source, SourceError, find, identity, load, shuffled, splits, usable
from sfa.data.task import Row, Split, Task, data_folder_of
from sfa.values import Spec

PARTS = 10_000  # that a fraction of rows is rounded to


class SourcedTask(Task):
    """A task of a source's training split, scored on its test or validation split, or on rows held out."""

    source: str = Field(
        description="hub name, a folder of <split>.{parquet,jsonl,json,csv}, a file, or a pattern of files"
    )
    subset: str | None = Field(None, description="the hub's configuration name")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    limit: int | None = Field(None, ge=1, description="rows to train on, the first after a seeded shuffle; null: all")
    test_fraction: float | None = Field(
        None, gt=0, lt=1, description="held out of a set without a test split; null: 1 in 50 texts, 1 in 10 images"
    )
    _source: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._source = find(self.source, data_folder_of(context), self.subset, self.revision)

    def located(self) -> Source:
        """Its data set, as it was found when the task was created."""
        return self._source

    def read(self, split: str, columns: Sequence[str]) -> list[SourceRow]:
        """The rows of one of the source's splits."""
        return load(self._source, split, columns)

    def held_out_split(self) -> str | None:
        """The name of the source's test or validation split, if it has one."""
        available = splits(self._source)
        return next((name for name in ("test", "validation") if name in available), None)

    def check_fraction(self, test: str | None) -> None:
        """Raises a SourceError if a fraction is to be held out of a source that has the split ``test``."""
        if self.test_fraction is not None and test is not None:
            raise SourceError(f"{self.name}: {self.source} has the split {test}: leave test_fraction out")

    def hold_out(self, units: Mapping[str, Sequence[str]], of: int, what: str) -> list[bool]:
        """Which rows are held out: ``test_fraction`` of them, or else one in ``of``. See
        :func:`sfa.data.holdout.draw`."""
        if self.test_fraction is None:
            return draw(units, of, what)
        return draw(units, PARTS, what, max(1, round(self.test_fraction * PARTS)))

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
        self.check_fraction(test)
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
            units = {"prompts": prompts, "whole rows": whole_rows}
            held_out = self.hold_out(units, 50, f"{self.name}: {train} of {self.source}")
            examples_by_row = [
                rows
                for rows, is_held_out in zip(examples_by_row, held_out, strict=True)
                if is_held_out == (split == "test")
            ]
        return shuffled([row for rows in examples_by_row for row in rows], self.limit if split == "train" else None)

    def data_spec(self) -> Spec:
        """Without a fraction as before there was one, so that finished stages remain valid."""
        spec = {**super().data_spec(), "source": identity(self._source)}
        return {key: value for key, value in spec.items() if key != "test_fraction" or value is not None}
