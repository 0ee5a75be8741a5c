"""The ``tasks`` of a config: a stream of tasks."""

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from sfa.config.messages import unknown, valid_part, validated
from sfa.config.schema import Train
from sfa.data import (
    KINDS,
    TASKS,
    Images,
    InstructionFile,
    InstructionFolder,
    LabelSplit,
    Task,
    kind_of,
    looking_in,
)
from sfa.data.source import SourceError
from sfa.methods import METHODS
from sfa.values import LocalPath, Overrides


@dataclasses.dataclass
class Stream:
    """The tasks that a config lists."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    """Of each task, the key of the entry that it is from, like ``tasks.0``."""
    invalid: set[str] = dataclasses.field(default_factory=set)
    """The keys of values that the tasks lack, as they are invalid."""
    lost: set[str] = dataclasses.field(default_factory=set)
    """What entries without a task would be evaluated on, under its usual name."""

    def add(self, task: Task, key: str, invalid: set[str]) -> None:
        self.tasks.append(task)
        self.keys.append(key)
        self.invalid |= invalid

    def lose(self, entry: Overrides) -> None:
        for declares in (Task.declares, *(kind.declares for kind in KINDS)):
            self.lost.update(declares(str(entry.get("name"))))


def read_tasks(entries: Any, data_folder: Any, errors: list[str]) -> Stream:
    """The stream: each entry is a registered name, a mapping with a name and the task's settings, or one that makes
    several tasks of an image data set or of a folder of instructions."""
    stream = Stream()
    if not isinstance(entries, list) or not entries:
        errors.append(f"tasks: must be a list of registered tasks ({', '.join(sorted(TASKS))}), not {entries!r}")
        return stream
    entries_of_tasks: list[Overrides] = []
    try:
        copies = TypeAdapter(LocalPath | None).validate_python(data_folder)
    except ValidationError:
        copies = None  # reported with the config's own errors
    for i, entry in enumerate(entries):
        if isinstance(entry, dict) and "split" in entry:
            split = validated(LabelSplit, entry, f"tasks.{i}.", errors)
            kind: Any = TASKS.get(split.split, Images) if split is not None else Images
            try:
                expanded = split.entries() if split is not None else []
            except ValueError as error:
                errors.append(f"tasks.{i}.{error}")
                known = {*kind.model_fields, *LabelSplit.model_fields}
                errors += [unknown(f"tasks.{i}.{key}", None, known, "") for key in entry if key not in known]
                expanded = []
        elif isinstance(entry, dict) and "instructions" in entry:
            kind = InstructionFile
            folder = validated(InstructionFolder, entry, f"tasks.{i}.", errors)
            try:
                expanded = folder.entries(copies) if folder is not None else []
            except SourceError as error:
                errors.append(f"tasks.{i}.{error}")
                expanded = []
            known = {*InstructionFile.model_fields, *InstructionFolder.model_fields} - {"name", "folder", "file"}
            if wrong := [key for key in entry if key not in known]:
                errors += [unknown(f"tasks.{i}.{key}", None, known, "") for key in wrong]
                expanded = []
        else:
            options = dict(entry) if isinstance(entry, dict) else {"name": entry}
            kind = _kind(options, copies, f"tasks.{i}", errors)
            if kind is None:
                stream.lose(options)
                continue
            expanded = [options]
        for options in expanded:
            train, before = options.get("train"), len(errors)
            invalid: set[str] = set()
            if isinstance(train, dict):
                part, invalid = valid_part(Train, train, f"tasks.{i}.train.", errors)
                if len(errors) > before:
                    options["train"] = {} if part is None else part.model_dump(exclude_unset=True)
            try:
                task, also_invalid = valid_part(kind, options, f"tasks.{i}.", errors, looking_in(copies))
            except SourceError as error:
                errors.append(f"tasks.{i}: {error}")
                task = None
            if task is None:
                stream.lose(options)
                break
            stream.add(task, f"tasks.{i}", invalid | also_invalid)
            entries_of_tasks.append(options)
    stream.tasks = tasks = _one_head(stream.tasks, entries_of_tasks, copies)
    errors[:] = list(dict.fromkeys(errors))
    if tasks and all(task.evaluate_only for task in tasks):
        errors.append("tasks: every task is held back, so nothing would be trained")
    names = [task.name for task in tasks]
    reserved = {"base", *(label for kind in METHODS.values() for label in kind.stage_labels)}
    for name in sorted({*names} & reserved):
        errors.append(f"tasks: {name} is reserved for a stage in results; give the task another name")
    for name in sorted({name for name in names if names.count(name) > 1}):
        errors.append(f"tasks: {name} is listed {names.count(name)} times; a task may occur only once in a stream")
    return stream


def _kind(options: Overrides, copies: Path | None, key: str, errors: list[str]) -> type[Task] | None:
    """The class of an entry's task; ``None`` after an error."""
    kinds: list[type[BaseModel]] = [*TASKS.values(), *KINDS, LabelSplit, InstructionFolder]
    known = {option for kind in kinds for option in kind.model_fields}
    wrong = [unknown(f"{key}.{option}", None, known, "") for option in options if option not in known]
    try:
        kind = kind_of(_without_source(options) if wrong else options, copies)
    except SourceError as error:
        errors.append(f"{key}: {error}")
        return None
    if kind is None:
        errors += [unknown(key, options.get("name"), TASKS, "a registered task"), *wrong]
    return kind


def _without_source(options: Overrides) -> Overrides:
    return {option: value for option, value in options.items() if option != "source"}


def _one_head(tasks: list[Task], entries: list[Overrides], copies: Path | None) -> list[Task]:
    """``tasks`` with the classes of all folders of pictures among them, as one head has an output for every class."""
    named = {i: task.names for i, task in enumerate(tasks) if isinstance(task, Images) and task.names}
    found = [i for i in named if "names" not in entries[i] and "classes" not in entries[i]]
    if len({named[i] for i in found}) < 2:
        return tasks
    names = sorted({name for i in found for name in named[i]})
    return [
        Images.model_validate({**entries[i], "names": names}, context=looking_in(copies)) if i in found else task
        for i, task in enumerate(tasks)
    ]
