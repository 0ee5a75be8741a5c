"""Evaluations: lm-eval on a live model, and the task files it reads (``eval/tasks/*.yaml``)."""

from pathlib import Path

TASK_FILES = Path(__file__).parent / "tasks"


def available() -> list[str]:
    """The names that ``eval.tasks`` of a config may hold."""
    return sorted(file.stem for file in TASK_FILES.glob("*.yaml"))
