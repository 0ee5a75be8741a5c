"""Arrays that are built once and cached under a hash of their inputs."""

import contextlib
import importlib.metadata
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sfa.data.source import SourceError
from sfa.data.task import Task
from sfa.store import lock, write_checksums


@contextlib.contextmanager
def built_once(folder: Path, tasks: Sequence[Task] = (), specs: Any = None) -> Iterator[Path | None]:
    """A temporary folder to write to, which then becomes ``folder``, complete and with checksums; ``None`` if that
    exists already, perhaps created by another process meanwhile. ``specs`` are the data specs of ``tasks`` in its name.

    Raises:
        SourceError: the data changed meanwhile; nothing is stored.
    """
    with lock(folder):
        if folder.exists():
            yield None
            return
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        yield temporary
        if tasks and [task.data_spec() for task in tasks] != specs:
            shutil.rmtree(temporary)
            raise SourceError(f"the data of {names(tasks)} changed while they were being read; start the command again")
        write_checksums(temporary)
        temporary.replace(folder)


def versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def names(tasks: Sequence[Task]) -> str:
    """The names of tasks as part of a folder name."""
    return "+".join(task.name for task in tasks)[:64]
