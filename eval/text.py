"""Rows of text evaluations: from the stream's task that owns the evaluation, or else from the registered one."""

from collections.abc import Sequence
from pathlib import Path

from eval.kind import Kind, Settings
from sfa.data import Row, Task, looking_in, owner
from sfa.data.source import shuffled, usable
from sfa.store import fingerprint


class TextKind(Kind):
    """A kind whose rows are text.

    Attributes:
        sources: the task that provides each evaluation's rows.
        rows: each evaluation's rows, once loaded.
    """

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        super().__init__(names, stream, settings)
        self.sources = {name: source(name, stream, settings.data_folder) for name in self.names}
        self.rows: dict[str, list[Row]] = {}

    def count(self, name: str) -> int:
        return len(self.rows[name])

    def key_of(self, text: str, name: str) -> str:
        """Hash of ``text``, which determines how a row is scored, of the rows, their limit and the template."""
        settings = self.settings
        more = [extras] if (extras := settings.layout.extras()) else []
        spec = self.sources[name].eval_spec(name)
        return fingerprint([text, spec, settings.template, settings.limit, settings.bf16, *more])

    def set_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Stores ``rows`` after checking them, at most ``limit`` of them."""
        self.rows[name] = shuffled(usable(rows, name), self.settings.limit)


def source(name: str, stream: Sequence[Task], data_folder: Path | None) -> Task:
    """The task that provides an evaluation's rows: from the stream, or else the registered one with default options.

    Raises:
        KeyError: no task owns the evaluation.
    """
    kind = owner(name)
    from_stream = next((task for task in stream if type(task) is kind or name in task.declared()), None)
    if from_stream is not None:
        return from_stream
    if kind is None:
        raise KeyError(f"no task has the evaluation {name}")
    return kind.model_validate({}, context=looking_in(data_folder))
