"""β of every merge and of every tensor: constant, linear over the merges, or another one for some tensors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Weighting:
    """The weight β of θ_o.

    Attributes:
        beta: β, of the first merge if ``end`` is set.
        end: β of the last merge, with linear steps from ``beta``; ``None``: ``beta`` too.
        layers: β of the tensors whose name contains a match of a regular expression, of the first that does.

    Raises:
        ValueError: a β is not in [0, 1], or an expression is invalid.
    """

    beta: float = 0.5
    end: float | None = None
    layers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {"beta": self.beta, "beta_end": self.end, **{f"layers[{key!r}]": b for key, b in self.layers.items()}}
        for name, value in named.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} weighs the old weights and must lie in [0, 1], not {value}")
        for pattern in self.layers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"layers: {pattern!r} is not a regular expression: {error}") from error

    def at(self, merge: int, count: int | None) -> float:
        """β of merge number ``merge``, from 0, of ``count``; tensors of ``layers`` have their own."""
        if self.end is None or count is None or count < 2:
            return self.beta
        return self.beta + (self.end - self.beta) * min(merge / (count - 1), 1)

    def of(self, names: Iterable[str], beta: float) -> dict[str, float]:
        """β of each tensor by name, ``beta`` of those that no expression matches."""
        found = {}
        for name in names:
            found[name] = next((b for pattern, b in self.layers.items() if re.search(pattern, name)), beta)
        return found

    def unused(self, names: Iterable[str]) -> list[str]:
        """The expressions that match no tensor."""
        listed = list(names)
        return [pattern for pattern in self.layers if not any(re.search(pattern, name) for name in listed)]
