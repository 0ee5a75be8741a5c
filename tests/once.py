"""A folder that takes minutes to fill is filled by one of the processes that run the tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def filled_once(factory: pytest.TempPathFactory, worker_id: str, name: str, fill: Callable[[Path], None]) -> Path:
    """The folder, which the first process that asks for it fills. ``worker_id``: the fixture of pytest-xdist."""
    shared = factory.getbasetemp() if worker_id == "master" else factory.getbasetemp().parent
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)  # of a process that failed
            fill(folder)
            done.touch()
    return folder
