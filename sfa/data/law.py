"""Law: CaseHOLD, Terms of Service and Overruling as one instruction data set, scored on each."""

import random
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict, Field, PrivateAttr

from sfa.data.formats import SourceRow
from sfa.data.source import Source, find, identity, labelled, load, shuffled, splits
from sfa.data.task import Row, Split, Task, data_folder_of
from sfa.values import Checked, Spec

LETTERS = ["A", "B", "C", "D", "E"]
ANSWERS = ["No", "Yes"]


class SourceOptions(Checked):
    """Options of one of the three data sets: its source, and how much of it is trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = Field(None, description="hub name or folder; null: the one on the hub")
    limit: int | None = Field(None, ge=0, description="rows to train on, the first after a seeded shuffle; null: all")
    repeat: int = Field(1, ge=1, description="how often each row occurs in an epoch")


class Law(Task):
    """CaseHOLD asks for the letter of the right holding among five, ToS whether a clause is unfair, Overruling whether
    a sentence overrules an earlier decision.

    Texts are deduplicated, and none of the test split is trained on. Where a data set has no test split, a fifth is
    held out with a seed: whole documents where they are known, else stratified by label.
    """

    name: str = "law"
    evals: tuple[str, ...] = ("casehold", "tos", "overruling")
    epoch_tokens: ClassVar[float | None] = 1.9e7  # 42,500 rows of 1,650 characters, 10,000 of 150

    casehold: SourceOptions = SourceOptions()
    tos: SourceOptions = SourceOptions()
    overruling: SourceOptions = SourceOptions()
    _sources: dict[str, Source] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        folder = data_folder_of(context)
        self._sources = {
            name: find(getattr(self, name).source or known.source, folder, known.subset)
            for name, known in DATA_SETS.items()
        }

    def rows(self, split: Split) -> list[Row]:
        rows: list[Row] = []
        for name in DATA_SETS:
            options: SourceOptions = getattr(self, name)
            examples = self.data_set_rows(name, split)
            rows += shuffled(examples, options.limit) * options.repeat if split == "train" else examples
        random.Random(0).shuffle(rows)
        return rows

    def eval_rows(self, evaluation: str) -> list[Row]:
        return self.data_set_rows(evaluation, "test")

    def data_set_rows(self, name: str, split: Split) -> list[Row]:
        """All rows of one of the three data sets."""
        known, source = DATA_SETS[name], self._sources[name]
        data = {
            split_name: load(source, split_name, known.columns, optional=["document"])
            for split_name in splits(source)
            if split_name in ("train", "test")
        }
        train, test = divide(data["train"], data.get("test"), known.columns[0])
        return [known.row(row) for row in (train if split == "train" else test)]

    def data_spec(self) -> Spec:
        return {**super().data_spec(), "sources": {name: identity(source) for name, source in self._sources.items()}}


def divide(
    rows: Iterable[SourceRow], test: Iterable[SourceRow] | None, text: str, seed: int = 0
) -> tuple[list[SourceRow], list[SourceRow]]:
    """Training and test rows without a text in common, each text once.

    Args:
        rows: rows with the columns ``text`` and ``label``, and ``document`` where documents are known.
        test: the test split; if ``None``, a fifth of ``rows`` is held out.
        text: the column by which rows are deduplicated, ignoring case and whitespace.
        seed: seed of the draw.
    """
    train = _unique(rows, text)
    if test is not None:
        held_out = _unique(test, text)
    else:
        rng = random.Random(seed)
        kind = "document" if all("document" in row for row in train.values()) else "label"
        groups: dict[str, list[str]] = {}
        for key, row in train.items():
            groups.setdefault(str(row[kind]), []).append(key)
        names = sorted(groups)
        if kind == "document":
            drawn = [key for name in rng.sample(names, max(1, len(names) // 5)) for key in groups[name]]
        else:
            drawn = [key for name in names for key in rng.sample(groups[name], len(groups[name]) // 5)]
        held_out = {key: train[key] for key in drawn}
    return [row for key, row in train.items() if key not in held_out], list(held_out.values())


def _unique(rows: Iterable[SourceRow], text: str) -> dict[str, SourceRow]:
    unique: dict[str, SourceRow] = {}
    for row in rows:
        unique.setdefault(" ".join(str(row[text]).lower().split()), row)
    return unique


class _DataSet(NamedTuple):
    source: str
    subset: str | None
    columns: list[str]  # the first is the text by which rows are deduplicated
    row: Callable[[SourceRow], Row]


def _casehold(row: SourceRow) -> Row:
    holdings = "\n".join(f"{letter}. {row[f'holding_{i}']}" for i, letter in enumerate(LETTERS))
    prompt = (
        f"Which holding does this court opinion cite?\n\n{row['citing_prompt']}\n\n{holdings}\n\nLetter of the holding:"
    )
    return {"prompt": prompt, "response": labelled(LETTERS, row["label"]), "choices": LETTERS}


def _tos(row: SourceRow) -> Row:
    prompt = f"Is this clause of an online service's terms unfair to the consumer?\n\n{row['text']}\n\nYes or No:"
    return {"prompt": prompt, "response": labelled(ANSWERS, row["label"]), "choices": ANSWERS}


def _overruling(row: SourceRow) -> Row:
    prompt = f"Does this sentence of a court overrule an earlier decision?\n\n{row['sentence1']}\n\nYes or No:"
    return {"prompt": prompt, "response": labelled(ANSWERS, row["label"]), "choices": ANSWERS}


DATA_SETS = {
    "casehold": _DataSet(
        "casehold/casehold", "all", ["citing_prompt", *(f"holding_{i}" for i in range(5)), "label"], _casehold
    ),
    "tos": _DataSet("LawInformedAI/claudette_tos", None, ["text", "label"], _tos),
    "overruling": _DataSet("LawInformedAI/overruling", None, ["sentence1", "label"], _overruling),
}
