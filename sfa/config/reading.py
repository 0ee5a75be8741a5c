"""YAML as a person reads it: what YAML 1.1 would silently take for another value is told instead."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfa.errors import UsageError
from sfa.values import at_home

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
DIGITS = r"(0|[1-9]\d*|[1-9]\d{0,2}(_\d{3})+)"  # grouped by threes, if at all
DECIMAL = re.compile(rf"[-+]?({DIGITS}(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|nan)", re.IGNORECASE)


class Unreadable(UsageError):
    """Text that is no YAML, or that reads otherwise than it looks. ``reasons`` holds a line for each thing."""

    def __init__(self, *reasons: str):
        self.reasons = reasons
        super().__init__("; ".join(reasons))


def read_file(path: str | Path) -> Any:
    """What a YAML file holds, as OmegaConf keeps it.

    Raises:
        Unreadable: it cannot be read, is no YAML, has a key twice, or a number that reads otherwise than it looks.
    """
    try:
        file = Path(at_home(str(path)))
        if file.exists() and not file.is_file():
            raise ValueError("it is no regular file")
        text = file.read_text(encoding="utf-8")
        _refuse(text, "")
        loaded = OmegaConf.load(io.StringIO(text))
        if not OmegaConf.is_dict(loaded):
            raise ValueError("it must hold keys and values")
        return loaded
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"cannot be read: {reason(error)}") from error


def read_value(text: str, key: str) -> Any:
    """The value of ``key`` in ``key=text``; ``text`` is YAML. Interpolations stay as they are.

    Raises:
        Unreadable: it is no YAML, has a key twice, or a number that reads otherwise than it looks.
    """
    try:
        _refuse(text, key)
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"{key}: cannot be read: {reason(error)}") from error


def written(value: Any) -> str:
    """A value as one line of YAML, to stand in ``key=value``."""
    if isinstance(value, str):
        try:
            plain = read_value(value, "") == value
        except Unreadable:
            plain = False
        if plain:
            return value
    return json.dumps(value, ensure_ascii=False)


def reason(error: Exception) -> str:
    """Why something cannot be read, on one line, with the line of the file that it lies in."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())


def _refuse(text: str, key: str) -> None:
    """Tells the numbers in ``text`` that read otherwise than they look, and keys that are given twice.

    Raises:
        Unreadable: with all of them.
    """
    found = list(dict.fromkeys(_misleading(yaml.compose(text, yaml.SafeLoader), key, set())))
    if found:
        raise Unreadable(*found)


def _misleading(node: yaml.Node | None, key: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, perhaps of what it lies in
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            inner, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
            if isinstance(name, yaml.ScalarNode) and name.value != "<<":
                if name.value in lines:
                    yield f"{inner}: is given twice, in lines {lines[name.value]} and {line}"
                lines[name.value] = line
            yield from _misleading(value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _misleading(value, f"{key}.{i}".lstrip("."), seen)
    elif isinstance(node, yaml.ScalarNode) and _is_disguised(node):
        text, value = node.value, yaml.safe_load(node.value)
        yield f"{key}: {text} would be read as the number {value}; write {value}, or '{text}' for text"


def _is_disguised(node: yaml.ScalarNode) -> bool:
    """Whether it is a number that is not written as a decimal one: octal like 017, hexadecimal, or of base 60."""
    return node.style is None and node.tag in NUMBERS and DECIMAL.fullmatch(node.value) is None
