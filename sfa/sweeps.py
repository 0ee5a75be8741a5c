"""A sweep: many runs of one config, over methods, a grid of keys and seeds, and their shared stages."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from sfa import config as configs
from sfa.config import ConfigError, Evaluations
from sfa.config.messages import valid_part
from sfa.config.reading import Unreadable, reason, update, written
from sfa.config.reading import read_file as read_yaml
from sfa.config.schema import Config
from sfa.runs import run_folder
from sfa.stages.plan import Stage, plan, topological_order
from sfa.store import fingerprint
from sfa.values import LocalPath, Overrides, Section

SWEEP_KEYS = {
    "seed": "seeds: [17, 18]",
    "order": "orders: [[1, 0]]",
    "name": "set: {name: …}",
}  # how a sweep sets them instead


LONGEST_NAME = 120  # of a run, without its config's name and its seed


class SweepFile(Section):
    """The YAML of a sweep. A value that is a list is a grid axis; a list-valued key takes a list of lists.

    Attributes:
        row_keys: keys of an entry of ``runs`` that are not overrides.
    """

    row_keys: ClassVar[tuple[str, ...]] = ("config",)

    config: LocalPath = Field(description="the runs' config, relative to the sweep's folder")
    set: Overrides = Field({}, description="overrides of all runs")
    seeds: list[int] = Field([17], min_length=1)
    orders: list[list[int]] | None = Field(None, min_length=1, description="of the stream's tasks, each like [0, 2, 1]")
    runs: list[Overrides] = Field(min_length=1, description="overrides of each run, like {method: l2}")


File = TypeVar("File", bound=SweepFile)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        label: the method and other settings; shared by runs that differ only in seed or order of tasks.
        point: the overrides that the label describes.
        row: values of the file's ``row_keys`` for the run.
        arguments: arguments for ``train.py``.
        config: the config with these arguments.
        order: order of the stream's tasks, if the sweep has several.
    """

    label: str
    point: Overrides
    arguments: tuple[str, ...]
    config: Config
    order: tuple[int, ...] | None = None
    row: Overrides = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the run's results."""
        return run_folder(self.config.save_folder, self.config.name)


def read(
    path: Path,
    overrides: Sequence[str] = (),
    evaluations: Evaluations | None = None,
    kind: type[SweepFile] = SweepFile,
) -> list[SweepRun]:
    """The runs of a sweep's YAML, seed after seed.

    Args:
        path: path of the YAML.
        overrides: overrides of all runs, except ``seeds=[…]`` and ``orders=[…]``, which override the sweep's.
        evaluations: see :func:`sfa.config.load`.
        kind: schema of the file; a subclass may add keys for the sweep and its runs.

    Raises:
        ConfigError: with all errors of the sweep or of one of its runs.
    """
    errors: list[str] = []
    file, others = _read_file(path, overrides, kind, errors)
    if file is None:
        raise ConfigError(str(path), errors)
    runs: list[SweepRun] = []
    repeats = itertools.product(file.seeds, [*file.orders] if file.orders else [None])
    for (seed, order), entry in itertools.product(list(repeats), file.runs):
        row = {key: entry[key] for key in kind.row_keys if key in entry}
        grid = {key: value for key, value in entry.items() if key not in kind.row_keys}
        config = path.parent / row.get("config", file.config)
        try:
            expanded = expand(config, [grid], [seed], [*_written(file.set), *others], evaluations, [order])
        except ConfigError as error:
            errors += error.errors
            continue
        suffix = f" ({config.stem})" if "config" in row else ""
        runs += [replace(run, label=run.label + suffix, row=row) for run in expanded]
    if errors:
        raise ConfigError(str(path), list(dict.fromkeys(errors)))
    _check_names(runs)
    return runs


def read_file(path: Path, overrides: Sequence[str], kind: type[File]) -> tuple[File, list[str]]:
    """A sweep's YAML, and those of ``overrides`` that are for its runs.

    Raises:
        ConfigError: with all errors of the sweep.
    """
    errors: list[str] = []
    file, of_runs = _read_file(path, overrides, kind, errors)
    if file is None or errors:
        raise ConfigError(str(path), errors)
    return file, of_runs


def _read_file(
    path: Path, overrides: Sequence[str], kind: type[File], errors: list[str]
) -> tuple[File | None, list[str]]:
    """:func:`read_file` with its errors in ``errors``, and then only what is valid of the file: ``None`` if it has no
    runs or no config."""
    of_sweep = [override for override in overrides if override.startswith(("seeds=", "orders="))]
    of_runs = [override for override in overrides if override not in of_sweep]
    try:
        loaded = read_yaml(path)
        for override in of_sweep:
            update(loaded, override, errors)
        content: Any = OmegaConf.to_container(loaded)
    except Unreadable as error:
        errors += error.reasons
        return None, of_runs
    except OmegaConfBaseException as error:
        errors.append(f"cannot be read: {reason(error)}")
        return None, of_runs
    if "runs" not in content and {"model", "tasks"} & content.keys():
        errors.append("is the config of one run: vary it with --over, or name a sweep's file")
        return None, of_runs
    file, _ = valid_part(kind, content, "", errors)
    if file is None:
        return None, of_runs
    keys = [(f"set.{key}", key) for key in file.set if key != "name"]
    keys += [(f"runs.{i}.{key}", key) for i, entry in enumerate(file.runs) for key in entry]
    keys += [(override, override.partition("=")[0]) for override in of_runs if not override.startswith("name=")]
    errors += [f"{where}: is set by the sweep, with {SWEEP_KEYS[key]}" for where, key in keys if key in SWEEP_KEYS]
    return file, of_runs


def expand(
    config: Path,
    grids: Sequence[Overrides],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    evaluations: Evaluations | None = None,
    orders: Sequence[Sequence[int] | None] = (None,),
) -> list[SweepRun]:
    """All combinations of every grid, for every seed and order.

    Args:
        config: the runs' YAML.
        grids: mappings of keys to a value or a list of values.
        seeds: seeds of every combination.
        overrides: overrides of all runs, like those of ``train.py``.
        evaluations: see :func:`sfa.config.load`.
        orders: orders of the stream's tasks for every combination; ``None``: the config's.

    Raises:
        ConfigError: with the errors of all runs; those of single runs begin with their labels.
    """
    empty = [key for grid in grids for key, values in grid.items() if values == []]
    if empty:
        raise ConfigError(str(config), [f"{key}: is varied over no value" for key in empty])
    stem, alone = None, []
    try:
        stem = configs.load(config, overrides, evaluations).name
    except ConfigError as error:  # which the runs may mend
        alone = error.errors
    points = [
        dict(zip(grid, values, strict=True))
        for grid in map(_dotted, grids)
        for values in itertools.product(*(v if isinstance(v, list) else [v] for v in grid.values()))
    ]
    runs: list[SweepRun] = []
    failed: list[tuple[str, list[str]]] = []
    for seed, order, point in itertools.product(seeds, orders, points):
        label = _label(point)
        places = [] if order is None else [("" if len(order) <= 10 else ".").join(map(str, order))]
        settings = {**point, "seed": seed, **({} if order is None else {"order": list(order)})}
        try:
            first = stem or configs.load(config, [*overrides, *_written(settings)], evaluations).name
            name = "-".join([first, _folder_name(label), *places, str(seed)])
            arguments = (str(config), *overrides, *_written({**settings, "name": name}))
            loaded = configs.load(config, arguments[1:], evaluations)
        except ConfigError as error:
            failed.append((label, error.errors))
            continue
        runs.append(SweepRun(label, point, arguments, loaded, None if order is None else tuple(order)))
    if failed:
        of_all = [line for line in alone if not runs and all(line in lines for _, lines in failed)]
        of_one = [f"{label}: {line}" for label, lines in failed for line in lines if line not in of_all]
        raise ConfigError(str(config), list(dict.fromkeys([*of_all, *of_one])))
    _check_names(runs)
    return runs


def stages(runs: Iterable[SweepRun]) -> list[tuple[Stage, SweepRun]]:
    """All stages of the runs, each once and after its dependencies, with the first run that needs it, whose settings
    determine its evaluations during training."""
    planned: dict[str, tuple[Stage, SweepRun]] = {}
    for run in runs:
        for stage in topological_order(plan(run.config)):
            planned.setdefault(stage.fingerprint, (stage, run))
    return list(planned.values())


def _check_names(runs: Sequence[SweepRun]) -> None:
    """Raises a ConfigError if two runs would write to one folder."""
    counts = Counter(run.config.name for run in runs)
    duplicates = [run for run in runs if counts[run.config.name] > 1]
    if duplicates:
        lines = [f"runs: {run.label!r} is not the only run called {run.config.name}" for run in duplicates]
        raise ConfigError("runs", list(dict.fromkeys(lines)))


def _folder_name(label: str) -> str:
    """A label in letters, digits and ``. _ -``, with a hash where these do not identify it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
    exact = re.fullmatch(r"[A-Za-z0-9._ =,\[\]-]*", label) and not re.search(r"(^|[^A-Za-z0-9])-", label)
    return (
        name if exact and len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{fingerprint(label)[:8]}".lstrip("-")
    )


def _dotted(nested: Overrides, prefix: str = "") -> Overrides:
    """Nested mappings, such as ``{l2: {strength: 0.5}}``, as dotted keys; lists stay whole.

    Raises:
        ConfigError: a key occurs in both forms.
    """
    flat: Overrides = {}
    for key, value in nested.items():
        inner = _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        twice = sorted(flat.keys() & inner.keys())
        if twice:
            raise ConfigError("runs", [f"{name}: is given twice" for name in twice])
        flat |= inner
    return flat


def _label(point: Overrides) -> str:
    method = str(point.get("method", ""))
    settings = [f"{key.removeprefix(f'{method}.')}={value}" for key, value in point.items() if key != "method"]
    return " ".join([*([method] if method else []), *settings])


def _written(point: Overrides) -> list[str]:
    return [f"{key}={written(value)}" for key, value in point.items()]
