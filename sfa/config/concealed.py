"""Conceals values from the environment: they are used, but written only as the interpolations in the config."""

import os
import re
from typing import Any

from sfa.values import flat

VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*([A-Za-z_][A-Za-z0-9_]*)")
SHORTEST = 3  # characters; shorter values also occur in unrelated texts


class Concealed:
    """The interpolations of a config that use values from the environment.

    Args:
        written: the config's mappings and lists with interpolations.
        resolved: the same with interpolations resolved.
    """

    def __init__(self, written: Any = None, resolved: Any = None):
        texts = [text for text in flat(written).values() if isinstance(text, str)]
        names = {name for text in texts for name in VARIABLE.findall(text)}
        self.variables = {name: os.environ[name] for name in sorted(names) if os.environ.get(name)}
        values = flat(resolved)
        self.by_key = {
            key: text
            for key, text in flat(written).items()
            if isinstance(text, str) and "${" in text and self._holds(str(values.get(key)))
        }
        self.by_value = {str(values[key]): text for key, text in self.by_key.items()}

    def __call__(self, content: Any, key: str = "") -> Any:
        """``content`` with interpolations in place of such values: identified by key or, if keys may have changed (when
        tasks are reordered), by value."""
        if key in self.by_key and not key.startswith("tasks."):
            return self.by_key[key]
        if isinstance(content, dict):
            return {name: self(value, f"{key}.{name}".lstrip(".")) for name, value in content.items()}
        if isinstance(content, list | tuple):
            return [self(value, f"{key}.{i}".lstrip(".")) for i, value in enumerate(content)]
        return self.text(content) if isinstance(content, str) else content

    def text(self, text: str) -> str:
        """The same for a text that may contain such values."""
        if text in self.by_value:
            return self.by_value[text]
        for name, value in self.variables.items():
            if len(value) >= SHORTEST:
                text = text.replace(value, f"${{oc.env:{name}}}")
        return text

    def _holds(self, text: str) -> bool:
        return any(value in text for value in self.variables.values())
