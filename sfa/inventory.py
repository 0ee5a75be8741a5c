"""What a folder of runs holds: runs, stages, their sizes, who needs which, and what no run needs."""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfa import runs
from sfa.errors import SFAError
from sfa.records import Manifest
from sfa.store import is_locked
from sfa.values import Spec

DAY = 24 * 3600  # seconds


@dataclass(frozen=True)
class StageEntry:
    """A stage's folder.

    Attributes:
        folder: the folder.
        manifest: its manifest; ``None``: the stage is not finished.
        size: in bytes.
        age: seconds since it was last written to.
        users: names of the runs that need it.
        is_running: whether a process is making it.
        error: why its manifest cannot be read.
    """

    folder: Path
    manifest: Manifest | None
    size: int
    age: float
    users: Sequence[str]
    is_running: bool
    error: str = ""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@dataclass(frozen=True)
class RunEntry:
    """A run's folder; ``error`` says why its results cannot be read."""

    name: str
    method: str = ""
    tasks: Sequence[str] = ()
    average: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Inventory:
    """The contents of a folder of runs.

    Attributes:
        runs: its runs, by name.
        stages: its stages, the latest first.
        data_size: bytes of cached arrays, which are built again when needed.
    """

    runs: Sequence[RunEntry]
    stages: Sequence[StageEntry]
    data_size: int

    @property
    def errors(self) -> list[str]:
        """Why files cannot be read, a line each."""
        errors = [*(run.error for run in self.runs), *(stage.error for stage in self.stages)]
        return [error for error in errors if error]


@dataclass(frozen=True)
class Removal:
    """Something that no run needs, and why."""

    path: Path
    size: int
    reason: str = field(default="")


def take(save_folder: Path) -> Inventory:
    """Reads a folder of runs.

    Raises:
        UsageError: it is not a folder.
        OSError: a file cannot be read.
    """
    folders = runs.stage_folders(save_folder)
    manifests: dict[Path, Manifest | None] = {}
    errors: dict[Path, str] = {}
    for folder in folders:
        try:
            manifests[folder] = runs.read_manifest(folder)
        except SFAError as error:
            manifests[folder], errors[folder] = None, error.message
    users: dict[str, list[str]] = {}
    found: list[RunEntry] = []
    for name in runs.run_names(save_folder):
        try:
            results = runs.read_results(save_folder / name)
        except SFAError as error:
            found.append(RunEntry(name, error=error.message))
            continue
        metrics = results["metrics"]
        tasks = [task["name"] for task in results["config"]["tasks"]]
        average = None if metrics is None else metrics["average"]
        found.append(RunEntry(name, results["config"]["method"], tasks, average))
        for needed in _closure([stage["fingerprint"] for stage in results["stages"]], save_folder):
            users.setdefault(needed, []).append(name)
    stages = [
        StageEntry(
            folder,
            manifests[folder],
            size_of(folder),
            time.time() - max(file.stat().st_mtime for file in [folder, *folder.rglob("*")]),
            users.get(folder.name, []),
            is_locked(folder),
            errors.get(folder, ""),
        )
        for folder in folders
    ]
    return Inventory(found, sorted(stages, key=lambda entry: entry.age), size_of(save_folder / "data"))


def caution(inventory: Inventory, age: float) -> str:
    """Why finished stages that no run with results needs may be needed all the same; empty if there is no reason. A run
    writes its results last, and trains each stage for as long as it takes, so one that was written to in the last
    ``age`` days for no known run may be the newest of several."""
    if inventory.errors:
        return f"what these need is not known, so finished stages are kept: {'; '.join(inventory.errors)}"
    latest = next((s for s in inventory.stages if not s.users and (s.is_running or s.age < age * DAY)), None)
    return "" if latest is None else f"{latest.folder} may be of a run that goes on, so finished stages are kept"


def unneeded(inventory: Inventory, age: float) -> list[Removal]:
    """Checkpoints of finished stages, stages that are not finished, and, without a :func:`caution`, finished ones that
    no run with results needs, of those that were not written to for ``age`` days. What a process is making is left
    alone."""
    removals = []
    cautious = bool(caution(inventory, age))
    for entry in inventory.stages:
        if entry.is_running or entry.age < age * DAY or (cautious and entry.manifest is not None and not entry.users):
            continue
        if entry.error:
            removals.append(Removal(entry.folder, entry.size, "its manifest is damaged: the next run makes it again"))
        elif entry.manifest is None:
            removals.append(Removal(entry.folder, entry.size, "not finished: the next run would resume or start it"))
        elif not entry.users:
            removals.append(Removal(entry.folder, entry.size, "needed by no run with results"))
        elif entry.checkpoints.is_dir():
            removals.append(Removal(entry.checkpoints, size_of(entry.checkpoints), "checkpoints of a finished stage"))
    return removals


def remove(removals: Iterable[Removal]) -> None:
    """Deletes them."""
    for removal in removals:
        shutil.rmtree(removal.path)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; 0 if there is none."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _manifest(folder: Path) -> Manifest | None:
    try:
        return runs.read_manifest(folder)
    except SFAError:
        return None


def _closure(fingerprints: Sequence[str], save_folder: Path) -> set[str]:
    """Stages and all that they depend on, as their manifests say."""
    waiting, known = list(fingerprints), set[str]()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        manifest = _manifest(runs.stage_folder(save_folder, name))
        if manifest is not None:
            spec: Spec = {**manifest["spec"]}
            parents = [manifest["parent"], *spec.get("sources", ())]
            waiting += [parent for parent in parents if parent is not None]
            waiting += _inside(spec, save_folder)
    return known


def _inside(spec: Spec, save_folder: Path) -> list[str]:
    """The stage whose model a base was read from, if it is one of the folder's: adapters are loaded from there."""
    model = spec.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if not isinstance(name, str):
        return []
    stage = Path(name).resolve().parent
    return [stage.name] if stage.parent == (save_folder / "stages").resolve() else []
