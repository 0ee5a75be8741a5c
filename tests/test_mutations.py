"""Configs with random mistakes: each is shown by a dry run or refused with what is wrong, and no key is passed over."""

import contextlib
import copy
import functools
import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

import train

DryRun = Callable[..., tuple[int, str]]

ROOT = Path(__file__).parent.parent
FILES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "yamls").glob("*.yaml"))}
COMPLETE = {name: content for name, content in FILES.items() if "tasks" in content}

# What people and programs write by mistake, and what is hard on code.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 17, 10**6, 10**12, 2**64, 0.0, 0.25, 1.0, -0.5, 1e-9, 1e-300, 1e300, math.inf,
    -math.inf, math.nan, "", " ", "x", "0", "1", "0.5", "-1", "1ep", "0ba", "5ba", "1_000ba", "0.25dur", "2dur", "1e-3",
    "999999999999ba", "99999999999999999999tok", "0.0000000001dur", "1sp", "none", "null", "auto", "cpu", "sfa", "ewc",
    "ties", "t5", "mlp", "vit", "gpt_neox", "nobody/nothing", "models/absent", "../..", "/dev", "~", "${seed}", "${x}",
    "é\u0000", "a" * 5000, [], [0], [1, 0], [0, 1, 2], [0.5, 0.5], ["arithmetic"], ["a", "a"], [None], [[]], {},
    {"a": 1}, {"name": "x"}, {"name": "arithmetic"}, {"split": "digits"}, {"split": "digits", "into": 3}, {"x": {}},
    {"name": "c", "source": "s", "prompt": "{", "response": "{a}"}, {1: 2}, {"file": {"filename": "f", "x": 1}},
]  # fmt: skip
FREE = re.compile(r"^(loggers\.(wandb|mlflow|trackio)|tasks\.\d+\.choices)")  # handed on to the loggers; labels of data


def places(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested mappings and lists."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in parts:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


def inside(content: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda part, key: part[key], path, content)


@st.composite
def with_mistakes(draw: st.DrawFn) -> tuple[dict[str, Any], int, list[str]]:
    """The content of a file with one to three mistakes, how many, and those of its keys that are not known."""
    content = copy.deepcopy(COMPLETE[draw(st.sampled_from(sorted(COMPLETE)))])
    unknown = []
    mistakes = draw(st.integers(1, 3))
    for _ in range(mistakes):
        path = draw(st.sampled_from(sorted(places(content), key=str)))
        held, key = inside(content, path[:-1]), path[-1]
        kind = draw(st.sampled_from(["value", "value", "rename", "remove", "add", "double"]))
        if kind == "value":
            held[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "remove":
            del held[key]
        elif kind == "double" and isinstance(held, list):
            held.append(copy.deepcopy(held[key]))
        elif kind in ("rename", "add") and isinstance(held, dict):
            new = f"{key}_{draw(st.sampled_from('xyz'))}"
            if not FREE.match(".".join(map(str, path))):
                unknown.append(new)
            held[new] = held.pop(key) if kind == "rename" else copy.deepcopy(draw(st.sampled_from(VALUES)))
    present = {str(path[-1]) for path in places(content)}
    return content, mistakes, [key for key in unknown if key in present]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes") / "config.yaml"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout below an empty folder, so that ``../..`` and ``~`` hold no data on any machine."""
    root = tmp_path_factory.mktemp("above") / "user" / "checkout"
    root.mkdir(parents=True)
    for entry in ROOT.iterdir():
        (root / entry.name).symlink_to(entry)
    return root


REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def dry_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> DryRun:
    """Runs dry, requires that it shows the stages or what is wrong, and returns the exit code and what is wrong."""
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HOME", str(checkout.parent))

    def run(*arguments: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = train.main([*arguments, "dry_run=true"])
        output = err.getvalue()
        assert code in (0, 2), output
        assert (code == 0) == (not output), output
        assert (code == 0) == bool(out.getvalue())
        assert "Traceback" not in output
        if code:
            assert re.search(r": \d+ errors?\n  \S", output), output
        return code, output

    return run


@settings(REPEATABLE, max_examples=2000)
@given(made=with_mistakes())
def test_a_mistake_is_named_or_harmless(
    made: tuple[dict[str, Any], int, list[str]], file: Path, dry_run: DryRun
) -> None:
    content, mistakes, unknown = made
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    code, output = dry_run(str(file))
    assert not unknown or code == 2, f"{unknown} passed over"
    assert not unknown or mistakes > 1 or unknown[0] in output, f"{unknown} not named"
    assert sorted(path.name for path in file.parent.iterdir()) == ["config.yaml"]


@settings(REPEATABLE, max_examples=500)
@given(made=with_mistakes(), name=st.sampled_from(sorted(COMPLETE)), data=st.data())
def test_a_mistake_in_a_further_file_or_in_overrides_is_named_or_harmless(
    made: tuple[dict[str, Any], int, list[str]], name: str, data: st.DataObject, file: Path, dry_run: DryRun
) -> None:
    content, _, _ = made
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    paths = st.sampled_from(sorted(places(content), key=str))
    values = st.sampled_from(VALUES).map(functools.partial(yaml.safe_dump, default_flow_style=True, width=math.inf))
    overrides = [
        f"{'.'.join(map(str, path))}={value.removesuffix(chr(10)).removesuffix('...')}"
        for path, value in data.draw(st.lists(st.tuples(paths, values), max_size=2))
    ]
    dry_run(f"yamls/{name}.yaml", *data.draw(st.permutations([str(file), *overrides])))
