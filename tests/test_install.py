"""What an installation without extras brings: the method, with torch and safetensors alone."""

import ast
import importlib
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import scripts
import sfa
import train
from sfa import compatible, extras, merging
from sfa.errors import MissingExtra
from tests.folders import bare

ROOT = Path(train.__file__).parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = ["sfa", "sfa.schedule", "sfa.anchor", "sfa.averager", "sfa.merging"]
ALLOWED = {"torch", "safetensors", "sfa", *sys.stdlib_module_names}
ASKED_FOR = {
    "mergekit",
    "transformers",
    "peft",
    "huggingface_hub",
}  # in functions, where sfa.extras says that they are there


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """The modules that a file may import, and whether it does so in a function alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield str(child.module), inside
            yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names if child.module == "sfa")
        yield from imports(child, inside or isinstance(child, ast.FunctionDef))


def file_of(module: str) -> Path:
    place = ROOT / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.mark.parametrize("start", CORE)
def test_the_method_imports_torch_and_safetensors_alone(start: str) -> None:
    waiting, seen = [start], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for name, inside in imports(ast.parse(file_of(module).read_text())):
            package = name.partition(".")[0]
            assert package in ALLOWED or (inside and package in ASKED_FOR), f"{module} imports {name}"
            if package == "sfa" and not inside and file_of(name).is_file() and name not in seen:
                waiting.append(name)
    assert start != "sfa.merging" or {"sfa.compatible", "sfa.adapters", "sfa.tensors", "sfa.model_files"} <= seen


def test_the_package_brings_no_more_and_does_not_bound_torch() -> None:
    assert [requirement.partition(">")[0] for requirement in PROJECT["dependencies"]] == ["torch", "safetensors"]
    assert not any("<" in requirement for requirement in PROJECT["dependencies"])
    assert PROJECT["optional-dependencies"].keys() >= extras.MODULES.keys()
    assert [extras.missing(extra) for extra in extras.MODULES] == [None] * len(extras.MODULES)


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(extras, "installed", lambda module: module not in modules)


def test_what_an_extra_brings_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, out = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[2.0]), tmp_path / "out"
    without(monkeypatch, "mergekit", "composer")
    merges = [
        lambda: merging.soup([first, second], out),
        lambda: merging.task_arithmetic(first, [second], [1.0], out),
        lambda: merging.ties(first, [second], [1.0], out),
    ]
    for merge in merges:
        with pytest.raises(MissingExtra, match=r"^mergekit is not installed: pip install 'sfa-soup\[merge\]'.*$"):
            merge()
    assert not out.exists()
    with pytest.raises(ImportError, match=r"^composer is not installed: pip install 'sfa-soup\[composer\]'.*$"):
        sfa.SFA  # noqa: B018
    assert train.main(["yamls/quickstart.yaml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("composer, mergekit are not installed: pip install 'sfa-soup[suite]'")
    with pytest.raises(SystemExit, match=r"^composer, mergekit are not installed: pip install 'sfa-soup\[suite\]'"):
        importlib.reload(scripts)


def test_models_are_averaged_without_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, *extras.MODULES["suite"])
    first, second = bare(tmp_path / "one", a=[1.0, 2.0]), bare(tmp_path / "two", a=[3.0, 4.0])
    merging.average(first, second, 0.25, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [2.5, 3.5]
    merging.fisher([first, second], [first, second], [0.5, 0.5], tmp_path / "fisher")
    torch.testing.assert_close(
        load_file(tmp_path / "fisher" / "model.safetensors")["a"], torch.tensor([10 / 4, 20 / 6])
    )


def test_without_transformers_defaults_count_as_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare(tmp_path / "one", a=[1.0])
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16, "hidden_act": "silu"}))
    two = Path(shutil.copytree(model, tmp_path / "two"))
    without(monkeypatch, "transformers")
    assert compatible.compare([model, two]) == []
    (two / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16}))
    with pytest.raises(ValueError, match=r'hidden_act is "silu" and not there\. Defaults .* without transformers\.$'):
        compatible.compare([model, two])


def test_tokenizers_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[2.0])
    for folder in (first, second):
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.model").write_text(folder.name)
    without(monkeypatch, "transformers")
    assert f"The tokenizers of {first} and {second} were not compared: that needs transformers." in compatible.compare(
        [first, second]
    )
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"content": "<end>", "id": 2}]}
    (first / "tokenizer.json").write_text(json.dumps(unigram))
    (second / "tokenizer.json").write_text(json.dumps({**unigram, "added_tokens": [{"content": "<end>", "id": 3}]}))
    with pytest.raises(ValueError, match=r"1 tokens other ids: '<end>' \(2 and 3\)"):
        compatible.compare([first, second])
