"""What a value of a config may be, beside its type: finite, a number where a number is asked for, a local path."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

REMOTE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://bucket, hdfs://host, also once a Path made s3:/ of it

LONGEST_PATH, LONGEST_PART = 4096, 255  # bytes, Linux's own limits; the first counts a closing zero


PART = r"(0?\.[0-9]*[1-9][0-9]*|1(\.0*)?)dur"
Interval = Annotated[
    str,
    Field(
        pattern=rf"^([1-9][0-9_]*(ba|ep)|{PART})$",
        description='batches, epochs or a part of the training, like "50ba" or "0.25dur"',
    ),
]


class Checked(BaseModel):
    """A block of the YAML, or a task. No number of it is infinite or NaN, and true is no number."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what pydantic would turn into another value, or, in a mapping of anything, not look at."""
        field = cls.model_fields.get(info.field_name or "")
        kinds = set(_leaves(field.annotation)) if field else set()
        if {int, float} & kinds and bool not in kinds:
            for _, part in _parts(value, into=list):
                if isinstance(part, bool):
                    raise ValueError(f"must be a number, not {str(part).lower()}")
        if Any in kinds:
            for key, part in _parts(value, into=(list, dict)):
                if isinstance(part, float) and not math.isfinite(part):
                    raise ValueError(f"{key} must be a finite number, not {part}")
        return value


class Section(Checked):
    """A block of the YAML. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _leaves(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _leaves(part)


def _parts(value: Any, into: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``value``, or what it holds if it is one of ``into``, with the keys that lead to it."""
    if not isinstance(value, into):
        yield key, value
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _parts(part, into, f"{key}.{name}".lstrip("."))


def at_home(path: str) -> str:
    """A path, or a hub's name, with a leading ``~`` or ``~user`` as the home folder that it stands for.

    Raises:
        ValueError: there is no such user, no path is as long, or one holds a NUL.
    """
    if "\0" in path:
        raise ValueError(f"must be a path, which holds no NUL, not {path!r}")
    sizes = [len(part.encode(errors="surrogateescape")) for part in (path, *Path(path).parts)]
    if sizes[0] >= LONGEST_PATH or max(sizes[1:], default=0) > LONGEST_PART:
        raise ValueError(f"must be a path of at most {LONGEST_PATH - 1} bytes, {LONGEST_PART} a name, not {path[:40]}…")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        raise ValueError(f"{path} leads to no user's home folder") from error


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
