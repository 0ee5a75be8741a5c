"""A sweep: many runs of one config, over methods, a grid of keys and seeds, and the stages that they need together."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError

from sfa import config as configs
from sfa.config import ConfigError, Evaluations
from sfa.config.reading import Unreadable, read_value, reason, written
from sfa.config.reading import read_file as read_yaml
from sfa.config.schema import Config
from sfa.runs import run_folder
from sfa.stages.plan import Stage, plan, topological_order
from sfa.store import fingerprint
from sfa.values import LocalPath, Section

SWEEP_KEYS = {"seed": "seeds: [17, 18]", "order": "orders: [[1, 0]]", "name": "set: {name: …}"}  # who sets them instead


LONGEST_NAME = 120  # of a run, without its config's name and its seed


class SweepFile(Section):
    """The YAML of a sweep. A value that is a list is a grid axis; a list-valued key takes a list of lists.

    Attributes:
        row_keys: of a run, what is said of it beside its overrides.
    """

    row_keys: ClassVar[tuple[str, ...]] = ("config",)

    config: LocalPath = Field(description="the runs' config, from the sweep's own folder")
    set: dict[str, Any] = Field({}, description="overrides of all runs")
    seeds: list[int] = Field([17], min_length=1)
    orders: list[list[int]] | None = Field(None, min_length=1, description="of the stream's tasks, each like [0, 2, 1]")
    runs: list[dict[str, Any]] = Field(min_length=1, description="overrides of a run each, like {method: l2}")


File = TypeVar("File", bound=SweepFile)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        label: the method and what is set beside it; runs that differ only in their seed or order of tasks share it.
        point: the overrides that the label says.
        row: what the sweep's file says of it beside its overrides, by the file's ``row_keys``.
        arguments: what ``train.py`` is given.
        config: what these arguments come to.
        order: of the stream's tasks, where the sweep is over several.
    """

    label: str
    point: dict[str, Any]
    arguments: tuple[str, ...]
    config: Config
    order: tuple[int, ...] | None = None
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the run's results."""
        return run_folder(self.config.save_folder, self.config.name)


def read(
    path: Path,
    overrides: Sequence[str] = (),
    evaluations: Evaluations | None = None,
    kind: type[SweepFile] = SweepFile,
) -> list[SweepRun]:
    """The runs of a sweep's YAML, seed after seed.

    Args:
        path: of the YAML.
        overrides: of all runs, but for ``seeds=[…]`` and ``orders=[…]``, of the sweep.
        evaluations: see :func:`sfa.config.load`.
        kind: of the file; a subclass may say more of the sweep and its runs.

    Raises:
        ConfigError: with every error of the sweep or of one of its runs.
    """
    file, others = read_file(path, overrides, kind)
    runs: list[SweepRun] = []
    repeats = itertools.product(file.seeds, [*file.orders] if file.orders else [None])
    for (seed, order), given in itertools.product(list(repeats), file.runs):
        row = {key: given[key] for key in kind.row_keys if key in given}
        grid = {key: value for key, value in given.items() if key not in kind.row_keys}
        config = path.parent / row.get("config", file.config)
        found = expand(config, [grid], [seed], [*_written(file.set), *others], evaluations, [order])
        own = f" ({config.stem})" if "config" in row else ""
        runs += [replace(run, label=run.label + own, row=row) for run in found]
    _check_names(runs)
    return runs


def read_file(path: Path, overrides: Sequence[str], kind: type[File]) -> tuple[File, list[str]]:
    """A sweep's YAML, and those of ``overrides`` that are not its own but its runs'.

    Raises:
        ConfigError: with every error of the sweep.
    """
    own = [override for override in overrides if override.startswith(("seeds=", "orders="))]
    others = [override for override in overrides if override not in own]
    try:
        loaded = read_yaml(path)
        for key, _, value in (override.partition("=") for override in own):
            OmegaConf.update(loaded, key, read_value(value, key))
        loaded = OmegaConf.to_container(loaded)
        if isinstance(loaded, dict) and "runs" not in loaded and {"model", "tasks"} & loaded.keys():
            raise ConfigError(str(path), ["is the config of one run: vary it with --over, or name a sweep's file"])
        file = kind.model_validate(loaded)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(str(path), lines) from error
    except Unreadable as error:
        raise ConfigError(str(path), error.reasons) from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(path), [f"cannot be read: {reason(error)}"]) from error
    own_keys = [(f"set.{key}", key) for key in file.set if key != "name"]
    own_keys += [(f"runs.{i}.{key}", key) for i, given in enumerate(file.runs) for key in given]
    own_keys += [(override, override.partition("=")[0]) for override in others if not override.startswith("name=")]
    wrong = [f"{where}: is set by the sweep, with {SWEEP_KEYS[key]}" for where, key in own_keys if key in SWEEP_KEYS]
    if wrong:
        raise ConfigError(str(path), wrong)
    return file, others


def expand(
    config: Path,
    grids: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    evaluations: Evaluations | None = None,
    orders: Sequence[Sequence[int] | None] = (None,),
) -> list[SweepRun]:
    """All combinations of every grid, for every seed and order.

    Args:
        config: the runs' YAML.
        grids: each a mapping of keys to a value, or to a list of values.
        seeds: of every combination.
        overrides: of all runs, like those of ``train.py``.
        evaluations: see :func:`sfa.config.load`.
        orders: of the stream's tasks, of every combination; ``None``: the config's.

    Raises:
        ConfigError: with the errors of the first run that has any.
    """
    empty = [key for grid in grids for key, values in grid.items() if values == []]
    if empty:
        raise ConfigError(str(config), [f"{key}: is varied over no value" for key in empty])
    stem = configs.load(config, overrides, evaluations).name
    points = [
        dict(zip(grid, values, strict=True))
        for grid in map(_dotted, grids)
        for values in itertools.product(*(v if isinstance(v, list) else [v] for v in grid.values()))
    ]
    runs = []
    for seed, order, point in itertools.product(seeds, orders, points):
        label = _label(point)
        places = [] if order is None else [("" if len(order) <= 10 else ".").join(map(str, order))]
        name = "-".join([stem, _folder_name(label), *places, str(seed)])
        own = {**point, "seed": seed, "name": name, **({} if order is None else {"order": list(order)})}
        given = (str(config), *overrides, *_written(own))
        loaded = configs.load(config, given[1:], evaluations)
        runs.append(SweepRun(label, point, given, loaded, None if order is None else tuple(order)))
    _check_names(runs)
    return runs


def stages(runs: Iterable[SweepRun]) -> list[tuple[Stage, SweepRun]]:
    """All stages that the runs need, each once and after those that it needs itself, with the first run that needs it:
    that one's settings say how it is evaluated while it trains."""
    found: dict[str, tuple[Stage, SweepRun]] = {}
    for run in runs:
        for stage in topological_order(plan(run.config)):
            found.setdefault(stage.fingerprint, (stage, run))
    return list(found.values())


def _check_names(runs: Sequence[SweepRun]) -> None:
    """Raises a ConfigError if two runs would write to one folder."""
    counts = Counter(run.config.name for run in runs)
    twice = [run for run in runs if counts[run.config.name] > 1]
    if twice:
        lines = [f"runs: {run.label!r} is not the only run called {run.config.name}" for run in twice]
        raise ConfigError("runs", list(dict.fromkeys(lines)))


def _folder_name(label: str) -> str:
    """A label in letters, digits and ``. _ -``, with a hash where these do not tell it from every other."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
    exact = re.fullmatch(r"[A-Za-z0-9._ =,\[\]-]*", label) and not re.search(r"(^|[^A-Za-z0-9])-", label)
    return (
        name if exact and len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{fingerprint(label)[:8]}".lstrip("-")
    )


def _dotted(block: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested blocks, such as ``{l2: {strength: 0.5}}``, as dotted keys; lists stay whole.

    Raises:
        ConfigError: a key is given both ways.
    """
    flat: dict[str, Any] = {}
    for key, value in block.items():
        inner = _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        twice = sorted(flat.keys() & inner.keys())
        if twice:
            raise ConfigError("runs", [f"{name}: is given twice" for name in twice])
        flat |= inner
    return flat


def _label(point: dict[str, Any]) -> str:
    method = str(point.get("method", ""))
    settings = [f"{key.removeprefix(f'{method}.')}={value}" for key, value in point.items() if key != "method"]
    return " ".join([*([method] if method else []), *settings])


def _written(point: dict[str, Any]) -> list[str]:
    return [f"{key}={written(value)}" for key, value in point.items()]
