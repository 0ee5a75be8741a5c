"""Folders of instruction tasks in the format of Super-NaturalInstructions (Wang et al., 2022): a JSON file per task."""

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from sfa import store
from sfa.data.formats import SourceError
from sfa.data.holdout import draw
from sfa.data.source import shuffled, usable
from sfa.data.task import FileName, Row, Split, Task, data_folder_of
from sfa.values import Checked, Overrides, Spec, at_home


class InstructionFile(Task):
    """One task: its definition and its instances, of which one in ten is held out, by its input. The response is an
    instance's first output; what the model writes is scored by ROUGE-L against the nearest output."""

    folder: str = Field(description="folder of <task>.json, also by its name in data_folder")
    file: str = Field(description="name of the task's file, without .json")
    limit: int | None = Field(None, ge=1, description="rows to train on, the first after a seeded shuffle; null: all")
    _file: Path | None = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _scored_by_default(cls, options: Any) -> Any:
        return {"evals": [f"{options['name']}_rouge_l"], **options} if "name" in options else options

    def model_post_init(self, context: Any) -> None:
        self._file = _find(self.folder, data_folder_of(context), self.file)

    @classmethod
    def declares(cls, name: str) -> dict[str, str]:
        return super().declares(name) | {f"{name}_rouge_l": "lm_eval"}

    def task_file(self, evaluation: str) -> str:
        return "rouge_l"

    def rows(self, split: Split) -> list[Row]:
        if self._file is None:
            raise SourceError(f"{self.name}: {self.folder} is no folder with {self.file}.json")
        definition, instances = _read(self._file)
        rows = [_row(definition, instance, self._file, i) for i, instance in enumerate(instances)]
        usable(rows, self.name)
        held_out = draw({"prompts": [row["prompt"] for row in rows]}, 10, f"{self.name}: {self._file.name}")
        chosen = [row for row, is_held_out in zip(rows, held_out, strict=True) if is_held_out == (split == "test")]
        return shuffled(chosen, self.limit if split == "train" else None)

    def data_spec(self) -> Spec:
        """The content of the file instead of its place, if it is there."""
        spec = super().data_spec()
        place = {"folder": self.folder} if self._file is None else {"content": store.identity(self._file)}
        return {key: value for key, value in spec.items() if key != "folder"} | place


class InstructionFolder(Checked):
    """One line of a config that defines a task for each file of a folder: ``{instructions: DIR}``. Further options are
    passed to each task."""

    model_config = ConfigDict(extra="allow", frozen=True)

    instructions: str = Field(description="folder of <task>.json, also by its name in data_folder")
    only: list[FileName] | None = Field(
        None, min_length=1, description="names of the files to use, in the order of the stream; null: all, sorted"
    )

    def entries(self, data_folder: Path | None) -> list[Overrides]:
        """The options of each task.

        Raises:
            SourceError: there is no such folder, and ``only`` does not name the tasks.
        """
        names = self.only
        if names is None:
            folder = next((place for place in _places(self.instructions, data_folder) if place.is_dir()), None)
            names = [] if folder is None else sorted(file.stem for file in folder.glob("*.json"))
            if not names:
                raise SourceError(
                    f"instructions: {self.instructions} is no folder of <task>.json; or name them in only"
                )
        shared = {**(self.model_extra or {}), "folder": self.instructions}
        return [{**shared, "name": name, "file": name} for name in names]


def _places(folder: str, data_folder: Path | None) -> list[Path]:
    try:
        path = Path(at_home(folder))
    except ValueError as error:
        raise SourceError(str(error)) from error
    return [path, *([data_folder / folder, data_folder / path.name] if data_folder else [])]


def _find(folder: str, data_folder: Path | None, name: str) -> Path | None:
    """The file of a task. ``None``, so that a dry run needs no data, if the folder is nowhere.

    Raises:
        SourceError: the folder is there, and has no such file.
    """
    for place in _places(folder, data_folder):
        if (place / f"{name}.json").is_file():
            return place / f"{name}.json"
        if place.is_dir():
            raise SourceError(f"{place} has no {name}.json")
    return None


def _read(file: Path) -> tuple[str, list[Any]]:
    """A task's definition and instances."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        definition, instances = content["Definition"], content["Instances"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise SourceError(f"{file} is no task with a Definition and Instances: {error}") from error
    text = "\n".join(definition) if isinstance(definition, list) else definition
    if not isinstance(instances, list):
        raise SourceError(f"{file}: Instances must be a list")
    return text, instances


def _row(definition: str, instance: Any, file: Path, number: int) -> Row:
    """An instance as Tk-Instruct presents it without examples."""
    try:
        outputs = instance["output"]
        references = [outputs] if isinstance(outputs, str) else list(outputs)
        prompt = (
            f"Definition: {definition}\n\nNow complete the following example -\nInput: {instance['input']}\nOutput:"
        )
        return {"prompt": prompt, "response": references[0], "references": references}
    except (KeyError, TypeError, IndexError) as error:
        raise SourceError(f"{file}: instance {number} has no input and output: {error}") from error
