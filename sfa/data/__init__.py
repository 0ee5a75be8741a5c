"""The tasks that a stream is made of, by name."""

from sfa.data import arithmetic, licences, returns  # noqa: F401  (importing a module registers its tasks)
from sfa.data.task import TASKS, Row, Task

__all__ = ["TASKS", "Row", "Task"]
