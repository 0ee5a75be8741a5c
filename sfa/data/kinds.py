"""Which kind of task an entry of a config's ``tasks`` is, by its name, its keys, or its source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfa.data import picture_folder
from sfa.data.conversations import COLUMNS, Conversations
from sfa.data.custom import Custom
from sfa.data.folder import split_files
from sfa.data.images import Images
from sfa.data.natural_instructions import InstructionFile
from sfa.data.source import SourceError, columns, find
from sfa.data.task import TASKS, Task

Kind = type[Task]
KINDS: tuple[Kind, ...] = (Custom, Conversations, Images)  # of tasks without a registered name


def kind_of(options: Mapping[str, Any], data_folder: Path | None) -> Kind | None:
    """The class of a task with these options; ``None`` if they do not say.

    Raises:
        SourceError: there is only a source, and it does not exist, or its columns do not say.
    """
    registered = TASKS.get(str(options.get("name")))
    if registered is not None:
        return registered
    if {"prompt", "response", "choices"} & options.keys():
        return Custom
    if "messages" in options:
        return Conversations
    if {"folder", "file"} <= options.keys():  # as a run records it
        return InstructionFile
    if {"image", "classes", "names"} & options.keys():
        return Images
    if "label" in options:
        return _kind_of_labels(options, data_folder)
    return _kind_of_source(str(options["source"]), options, data_folder) if "source" in options else None


def _kind_of_labels(options: Mapping[str, Any], data_folder: Path | None) -> Kind:
    """Images, unless it is a local table without a column of images."""
    found = find(str(options["source"]), data_folder) if "source" in options else None
    if found is None or found.path is None or not split_files(found.path):
        return Images
    return Images if "image" in columns(found, str(options.get("train_split", "train"))) else Custom


def _kind_of_source(source: str, options: Mapping[str, Any], data_folder: Path | None) -> Kind:
    found = find(source, data_folder)
    if found.path is not None and not split_files(found.path) and picture_folder.read(found.path) is not None:
        return Images
    if found.path is None:
        raise SourceError(f"{source} is on the hub: set {HOW}")
    named = columns(found, str(options.get("train_split", "train")))
    if {*COLUMNS} & {*named}:
        return Conversations
    raise SourceError(f"{source} has the columns {named}: set {HOW}")


HOW = (
    'prompt and response to templates over its columns, like prompt: "{question}", response: "{answer}"; or label and '
    "choices; or messages, the column of conversations; or image, label and classes"
)
