"""Evaluations: their kinds, one file each in ``eval/kinds``, and the task files for lm-eval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfa.data import Task

if TYPE_CHECKING:
    from eval.kind import Kind

TASK_FILES = Path(__file__).parent / "tasks"


def available(stream: Sequence[Task] = ()) -> list[str]:
    """The valid names in ``eval.tasks`` of a run of these tasks; without tasks, those that need none."""
    return list(dict.fromkeys(name for kind in all_kinds() for name in kind.owned(stream)))


def owner(name: str, stream: Sequence[Task] = ()) -> "type[Kind] | None":
    """The kind of an evaluation in a run of these tasks."""
    return next((kind for kind in all_kinds() if name in kind.owned(stream)), None)


def all_kinds() -> "list[type[Kind]]":
    """All kinds of evaluation."""
    from eval.kinds import KINDS

    return list(KINDS.values())
