"""Evaluations: their kinds, one file each in ``eval/kinds``, and the task files for lm-eval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfa.data import ImageTask, Task

if TYPE_CHECKING:
    from eval.kind import Kind

TASK_FILES = Path(__file__).parent / "tasks"


class Available:
    """The evaluations that a run's config may name; implements :class:`sfa.config.Evaluations`."""

    def __call__(self, stream: Sequence[Task] = ()) -> list[str]:
        """The valid names in ``eval.tasks`` of a run of these tasks; without tasks, those that need none."""
        return list(dict.fromkeys(name for kind in all_kinds() for name in kind.owned(stream)))

    def general_errors(self, names: Sequence[str], folder: Path | None, stream: Sequence[Task]) -> list[str]:
        """Why tasks of the prior suite cannot be scored, a line each; their rows are loaded."""
        if not names:
            return []
        if all(isinstance(task, ImageTask) for task in stream):
            return ["is of language models, and this stream is of images"]
        from eval.general import load
        from sfa.data.source import SourceError

        errors = []
        for name in names:
            try:
                load(name, folder)
            except SourceError as error:
                errors.append(str(error))
        return errors


available = Available()


def owner(name: str, stream: Sequence[Task] = ()) -> "type[Kind] | None":
    """The kind of an evaluation in a run of these tasks."""
    return next((kind for kind in all_kinds() if kind.owns(name, stream)), None)


def all_kinds() -> "list[type[Kind]]":
    """All kinds of evaluation."""
    from eval.kinds import KINDS

    return list(KINDS.values())
