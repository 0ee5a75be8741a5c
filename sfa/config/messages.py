"""Errors of a config, one line each: the key, what is allowed, and the nearest known key."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sfa.values import Overrides

Validated = TypeVar("Validated", bound=BaseModel)


def validated(
    kind: type[Validated], values: Overrides, prefix: str, errors: list[str], context: Any = None
) -> Validated | None:
    """A section of a config; ``None`` if it has errors, which are added to ``errors``.

    Args:
        kind: the section's class.
        values: its keys and values.
        prefix: what precedes its keys in messages.
        errors: is extended by one line per error.
        context: pydantic's validation context.
    """
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        errors += [_line(kind, prefix, dict(e)) for e in error.errors()]
        return None


def valid_part(
    kind: type[Validated],
    values: Overrides,
    prefix: str,
    errors: list[str],
    context: Any = None,
    instead: Mapping[str, Any] | None = None,
) -> tuple[Validated | None, set[str]]:
    """What is valid of a section, so that what depends on several keys can be checked although one of them is wrong.

    Args:
        kind: the section's class.
        values: its keys and values.
        prefix: what precedes its keys in messages.
        errors: is extended by one line per error. Errors of a section from which an invalid value was left out are not
            added, as they may follow from that.
        context: pydantic's validation context.
        instead: what takes the place of required keys that are missing or invalid.

    Returns:
        The section without its invalid values, ``None`` if without them there is none; and the keys of these values,
        with ``prefix``. Unknown keys are not among them, as nothing depends on those.
    """
    invalid: set[str] = set()
    while True:
        try:
            return kind.model_validate(values, context=context), invalid
        except ValidationError as error:
            before, left = frozenset(invalid), values
            for found in error.errors():
                path = [str(name) for name in found["loc"] if name != "[key]"]
                key = (prefix + ".".join(path)).rstrip(".")
                if not depends(key, before):
                    errors.append(_line(kind, prefix, dict(found)))
                if found["type"] != "extra_forbidden":
                    invalid.add(key)
                left = _without(left, path)
            left = {**left, **{key: value for key, value in (instead or {}).items() if key not in left}}
            if left == values:
                return None, invalid
            values = left


def depends(key: str, keys: Iterable[str]) -> bool:
    """Whether ``key`` is, contains or belongs to one of ``keys``."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in keys)


def _without(values: Overrides, path: Sequence[str]) -> Overrides:
    """``values`` without the one at a path, or without the innermost section that should contain it."""
    if not path:
        return values
    head, *rest = path
    inner = values.get(head)
    if rest and isinstance(inner, dict) and rest[0] in inner:
        return {**values, head: _without(inner, rest)}
    return {key: value for key, value in values.items() if key != head}


def _line(kind: type[BaseModel], prefix: str, error: Overrides) -> str:
    """One error as ``key: what is allowed, not the actual value``."""
    path = [str(name) for name in error["loc"] if name != "[key]"]
    key = prefix + ".".join(path)
    if error["type"] == "extra_forbidden":
        section = _section(kind, path[:-1])
        return unknown(key, None, section.model_fields if section else [], "known here")
    if error["type"] == "missing":
        return f"{key}: is required{_hint(kind, path)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "value_error":
        return f"{key.rstrip('.')}: {message}" if key else message
    near = _nearest(
        str(error["input"]),
        str(error.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", "),
    )
    hint = _hint(kind, path)
    if error["type"] == "string_pattern_mismatch" and hint:
        message = "is not allowed"
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        hint = f"; in quotes it is text{hint}"
    return f"{key}: {message}, not {error['input']!r}{hint}" + (f"; did you mean {near}?" if near else "")


def _hint(kind: type[BaseModel], path: list[str]) -> str:
    section = _section(kind, path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    descriptions = [field.description, *(getattr(m, "description", None) for m in field.metadata)] if field else []
    text = next((d for d in descriptions if d), None)
    return f" ({text})" if text else ""


def _section(kind: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The section at a path of keys."""
    for name in path:
        field = kind.model_fields.get(name)
        options = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
        inner = next((t for t in options if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is None:
            return None
        kind = inner
    return kind


def unknown(key: str, name: Any, known: Iterable[str], what: str) -> str:
    """The line for an unknown key, or an unknown ``name`` at ``key``, which is not ``what``."""
    known = sorted(known)
    wrong = key.rsplit(".", 1)[-1] if name is None else str(name)
    near = _nearest(wrong, known)
    head = f"{key}: unknown key" if name is None else f"{key}: {name!r} is not {what}"
    guess = f"; did you mean {near}?" if near else ""
    return f"{head}{guess} ({'known' if name is None else 'allowed'}: {', '.join(known)})"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.5)), None)
