"""What runs and sweeps left on disk, read with a line for what is missing."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sfa import store
from sfa.errors import UsageError
from sfa.values import REMOTE, at_home

RESULTS = ("name", "config", "seed", "stages", "evaluations", "metrics")
STAGE = (
    "task",
    "method",
    "fingerprint",
    "steps",
    "merge_steps",
    "l2_from_anchor",
    "seconds",
    "peak_bytes",
    "stored_examples",
)
SCORE = ("after", "task", "metric", "value", "stderr", "n")
RUN = ("label", "point", "name", "seed")


def results(run: Path) -> dict[str, Any]:
    """The content of a run's ``results.json``.

    Raises:
        UsageError: ``run`` is no folder of a finished run, or the file is torn or lacks something.
    """
    file = run / "results.json"
    if not run.is_dir():
        raise UsageError(f"{run} is {'a file' if run.exists() else 'not there'}: name the folder of a run")
    if not file.is_file():
        raise UsageError(f"{run} holds no results.json: name the folder of a run that is finished")
    found = _mapping(_read(file), RESULTS, str(file))
    if not found["stages"] or not found["evaluations"]:
        raise UsageError(f"{file} holds no stages or no evaluations: start its run again")
    for name, keys in (("stages", STAGE), ("evaluations", SCORE)):
        for i, part in enumerate(found[name]):
            _mapping(part, keys, f"{file}: {name}.{i}")
    return found


def manifest(run: Path, fingerprint: str) -> dict[str, Any]:
    """The manifest of one of a run's stages.

    Raises:
        UsageError: the stage is not there.
    """
    file = store.stage_folder(run.parent, fingerprint) / "manifest.json"
    if not file.is_file():
        raise UsageError(f"{file.parent}, a stage of {run}, is not there: start the run again to make it")
    return _mapping(_read(file), ("made", "files"), str(file))


def evaluations(run: Path, fingerprint: str) -> list[dict[str, Any]]:
    """All scores that are kept with one of a run's stages.

    Raises:
        UsageError: they are not there.
    """
    file = store.stage_folder(run.parent, fingerprint) / "evaluations.json"
    if not file.is_file():
        raise UsageError(f"{file} is not there: start {run} again to make it")
    return [_mapping(row, ("task", "step", "value"), str(file)) for row in _read(file)]


def sweep(index: Path) -> dict[str, Any]:
    """The content of the file that lists a sweep's runs.

    Raises:
        UsageError: it is none, or not there.
    """
    if not index.is_file():
        what = "a folder" if index.is_dir() else "not there"
        raise UsageError(f"{index} is {what}: name the JSON file that a sweep wrote, <save_folder>/<sweep>.json")
    found = _mapping(_read(index), ("sweep", "runs"), str(index))
    for i, run in enumerate(found["runs"]):
        _mapping(run, RUN, f"{index}: runs.{i}")
    return found


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is torn or damaged ({error}): start its run again") from error


def _mapping(content: Any, keys: Iterable[str], place: str) -> dict[str, Any]:
    missing = [key for key in keys if key not in content] if isinstance(content, dict) else list(keys)
    if missing:
        raise UsageError(f"{place} lacks {', '.join(missing)}: it was not written by this suite, or by another release")
    return dict(content)


def path(text: str) -> Path:
    """A path of a command line, with ``~`` as the home folder, also where the shell left it.

    Raises:
        argparse.ArgumentTypeError: it is empty, not local, or of a user that is not there.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, not an empty name")
    if REMOTE.match(text):
        raise argparse.ArgumentTypeError(f"must be a local path, not {text}")
    try:
        return Path(at_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def picture(text: str) -> Path:
    """The path of a picture that is to be drawn.

    Raises:
        argparse.ArgumentTypeError: as of a path, or the kind of picture is not known.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(text).suffix.removeprefix(".") not in kinds:
        raise argparse.ArgumentTypeError(f"must end in one of .{', .'.join(kinds)}, not {text}")
    return path(text)


def write(out: Path, text: str) -> Path:
    """Writes ``text`` to ``out``, in a folder that is made if it is not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out
