"""Arrays that are built once and kept under the content of what they are built from."""

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
    """A folder to write in, which then becomes ``folder``, whole and sealed; ``None`` if that is there, perhaps because
    another process has just made it. ``specs`` are the data of ``tasks`` by which it is called.

    Raises:
        SourceError: the data were changed meanwhile; nothing is kept.
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
            raise SourceError(f"the data of {names(tasks)} were changed while they were read; start the command again")
        write_checksums(temporary)
        temporary.replace(folder)


def versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def names(tasks: Sequence[Task]) -> str:
    """Of tasks, as a part of a folder's name."""
    return "+".join(task.name for task in tasks)[:64]
