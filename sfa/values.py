"""Validation of config values beyond their types: finite numbers, no booleans as numbers, local paths."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

REMOTE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://bucket, hdfs://host, also after Path has turned it into s3:/

LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes, the limits of Linux; the first includes a terminating zero


PART = r"(0?\.[0-9]*[1-9][0-9]*|1(\.0*)?)dur"
Interval = Annotated[
    str,
    Field(
        pattern=rf"^([1-9][0-9_]*(ba|ep)|{PART})$",
        description='batches, epochs or a fraction of the training, like "50ba" or "0.25dur"',
    ),
]

Spec = dict[str, Any]  # JSON content that is hashed: all that determines rows, weights or scores
Overrides = dict[str, Any]  # of a section's defaults: keys and YAML values


class Checked(BaseModel):
    """A section of the YAML, or a task. Numbers must be finite, and booleans are not numbers."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects what pydantic would convert or, in a mapping of arbitrary values, not check."""
        field = cls.model_fields.get(info.field_name or "")
        kinds = set(_leaves(field.annotation)) if field else set()
        if {int, float} & kinds and bool not in kinds:
            for _, leaf in _items(value, into=list):
                if isinstance(leaf, bool):
                    raise ValueError(f"must be a number, not {str(leaf).lower()}")
        if Any in kinds:
            for key, leaf in _items(value, into=(list, dict)):
                if isinstance(leaf, float) and not math.isfinite(leaf):
                    raise ValueError(f"{key} must be a finite number, not {leaf}")
        return value


class Section(Checked):
    """A section of the YAML. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def flat(content: Any, prefix: str = "") -> Overrides:
    """Nested mappings and lists with dotted keys, as on the command line."""
    items = enumerate(content) if isinstance(content, list) else content.items() if isinstance(content, dict) else None
    if items is None:
        return {prefix: content}
    return {key: value for name, item in items for key, value in flat(item, f"{prefix}.{name}".lstrip(".")).items()}


def _leaves(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for argument in inner:
        yield from _leaves(argument)


def _items(value: Any, into: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``value``, or its nested items if it is one of the types ``into``, with their keys."""
    if not isinstance(value, into):
        yield key, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _items(item, into, f"{key}.{name}".lstrip("."))


def at_home(path: str) -> str:
    """A path or hub name with a leading ``~`` or ``~user`` expanded to the home folder.

    Raises:
        ValueError: the user does not exist, or the path is too long or contains a NUL.
    """
    if "\0" in path:
        raise ValueError(f"must be a path without NUL, not {path!r}")
    sizes = [len(name.encode(errors="surrogateescape")) for name in (path, *Path(path).parts)]
    if sizes[0] >= LONGEST_PATH or max(sizes[1:], default=0) > LONGEST_NAME:
        raise ValueError(
            f"must be a path of at most {LONGEST_PATH - 1} bytes, {LONGEST_NAME} per name, not {path[:40]}…"
        )
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        raise ValueError(f"{path} is not in a user's home folder") from error


def _local(path: Any) -> Any:
    if not isinstance(path, str | Path) or not str(path).strip():
        raise ValueError(f"must be a path, not {path!r}")
    text = str(path)
    if REMOTE.match(text):
        raise ValueError(f"must be a local folder, not {text}; copy or mount it, and name that folder")
    return at_home(text)


def _local_or_hub(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    if not name.strip():
        raise ValueError(f"must be a hub name or a folder, not {name!r}")
    if REMOTE.match(name):
        raise ValueError(f"must be a hub name or a local folder, not {name}; copy or mount it, and name that folder")
    return at_home(name)


LocalPath = Annotated[Path, BeforeValidator(_local)]
PathOrHubName = Annotated[str, BeforeValidator(_local_or_hub)]
