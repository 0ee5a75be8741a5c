"""YAML as people read it: values that YAML 1.1 would silently misread are errors."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfa.errors import UsageError, one_line
from sfa.values import at_home

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
DIGITS = r"(0|[1-9]\d*|[1-9]\d{0,2}(_\d{3})+)"  # grouped by threes, if at all
DECIMAL = re.compile(rf"[-+]?({DIGITS}(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|nan)", re.IGNORECASE)


class Unreadable(UsageError):
    """Text that is not valid YAML, or that would be misread. ``reasons`` holds one line per error."""

    def __init__(self, *reasons: str):
        self.reasons = reasons
        super().__init__("; ".join(reasons))


def read_file(path: str | Path) -> Any:
    """Reads a YAML file as an OmegaConf object.

    Raises:
        Unreadable: it cannot be read, is not YAML, has a duplicate key, or a number that would be misread.
    """
    try:
        file = Path(at_home(str(path)))
        if file.exists() and not file.is_file():
            raise ValueError("it is not a regular file")
        text = file.read_text(encoding="utf-8")
        _refuse(text, "")
        loaded = OmegaConf.load(io.StringIO(text))
        if not OmegaConf.is_dict(loaded):
            raise ValueError("it must contain keys and values")
        return loaded
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"cannot be read: {reason(error)}") from error


def read_value(text: str, key: str) -> Any:
    """The value of ``key`` in ``key=text``; ``text`` is YAML. Interpolations are not resolved.

    Raises:
        Unreadable: it is not YAML, has a duplicate key, or a number that would be misread.
    """
    try:
        _refuse(text, key)
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"{key}: cannot be read: {reason(error)}") from error


def update(content: Any, override: str, errors: list[str]) -> None:
    """Changes an OmegaConf object by ``key=value``, or adds a line to ``errors``."""
    key, _, value = override.partition("=")
    try:
        OmegaConf.update(content, key, read_value(value, key))
    except Unreadable as error:
        errors += error.reasons
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        errors.append(f"{key}: cannot be read: {reason(error)}")


def merged(content: Any, further: Any, name: str, errors: list[str]) -> Any:
    """An OmegaConf object with the keys of a further file, called ``name``, which take precedence; as it was, with a
    line in ``errors`` for each key that holds a list in one of them and a mapping in the other."""
    try:
        return OmegaConf.merge(content, further)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        unlike = list(_unlike(OmegaConf.to_container(content), OmegaConf.to_container(further), ""))
        errors += [f"{key}: is a {kind} in {name}, and a {other} before" for key, kind, other in unlike]
        errors += [] if unlike else [f"{name}: cannot be merged: {reason(error)}"]
        return content


def _unlike(content: Any, further: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """The keys at which two contents have containers of different kinds, with that of ``further`` first."""
    if isinstance(content, dict) and isinstance(further, dict):
        for name in further:
            if name in content:
                yield from _unlike(content[name], further[name], f"{key}.{name}".lstrip("."))
    else:
        kinds = ["list" if isinstance(part, list) else "mapping" for part in (further, content)]
        if kinds[0] != kinds[1] and isinstance(content, (list, dict)) and isinstance(further, (list, dict)):
            yield key, kinds[0], kinds[1]


def written(value: Any) -> str:
    """A value as one line of YAML, for ``key=value``."""
    if isinstance(value, str):
        try:
            plain = read_value(value, "") == value
        except Unreadable:
            plain = False
        if plain:
            return value
    return json.dumps(value, ensure_ascii=False)


def reason(error: Exception) -> str:
    """Why something cannot be read, on one line, with its line number in the file if known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return one_line(error)


def _refuse(text: str, key: str) -> None:
    """Rejects numbers in ``text`` that would be misread, and duplicate keys.

    Raises:
        Unreadable: lists all of them.
    """
    reasons = list(dict.fromkeys(_misleading(yaml.compose(text, yaml.SafeLoader), key, set())))
    if reasons:
        raise Unreadable(*reasons)


def _misleading(node: yaml.Node | None, key: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, possibly of a node that contains it
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            inner, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
            if isinstance(name, yaml.ScalarNode) and name.value != "<<":
                if name.value in lines:
                    yield f"{inner}: occurs twice, in lines {lines[name.value]} and {line}"
                lines[name.value] = line
            yield from _misleading(value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _misleading(value, f"{key}.{i}".lstrip("."), seen)
    elif isinstance(node, yaml.ScalarNode) and _is_disguised(node):
        text, value = node.value, yaml.safe_load(node.value)
        yield f"{key}: {text} would be read as the number {value}; write {value}, or '{text}' for text"


def _is_disguised(node: yaml.ScalarNode) -> bool:
    """Whether it is a number in another notation than decimal: octal like 017, hexadecimal, or base 60."""
    return node.style is None and node.tag in NUMBERS and DECIMAL.fullmatch(node.value) is None
