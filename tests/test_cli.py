"""The command ``sfa`` and what its installation brings."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_packages

from scripts import cli
from tests.test_train import QUICKSTART, ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = cli.main([name, "--help"])
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    assert not code and f"sfa {name}" in printed.out + printed.err


def test_the_list_of_commands_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from scripts import cli; print(cli.main(['--help']), *sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=True, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    *lines, last = done.stdout.splitlines()
    code, *modules = last.split()
    assert code == "0" and not {"torch", "pydantic", "rich", "numpy", "argparse"} & {*modules}
    assert [line.split()[0] for line in lines[2:]] == list(cli.COMMANDS)


def test_a_command_that_does_not_exist_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compere"]) == 2
    assert "no command 'compere'; did you mean compare?" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert cli.main(["run"]) == 2 and cli.main(["run", "--ranks", "2"]) == 2
    assert cli.main(["run", QUICKSTART, "--ranks", "0"]) == 2
    assert "--ranks must be a whole number from 1, not '0'" in capsys.readouterr().err


def test_a_run_is_described_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", QUICKSTART, "--dry-run", "name=here"]) == 0
    assert capsys.readouterr().out.startswith("here: sfa, seed 17") and not list(tmp_path.iterdir())


def test_an_interrupted_command_is_resumed_as_it_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sfa.config.load", interrupt)
    assert cli.main(["run", QUICKSTART, "seed=18"]) == 130
    assert f"sfa run {QUICKSTART} seed=18" in capsys.readouterr().err


def test_the_installation_brings_every_package_and_the_files_that_they_read() -> None:
    module, _, function = PROJECT["project"]["scripts"]["sfa"].partition(":")
    assert callable(getattr(import_module(module), function))
    settings = PROJECT["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    for folder in ("sfa", "eval", "scripts"):
        packages = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / folder).rglob("__init__.py")}
        assert packages <= {*found}
    for folder, pattern in (("eval", r".*\.ya?ml"), ("scripts", r".*\.(html|css|js)")):
        globs = [(name, glob) for name, globs in settings["package-data"].items() for glob in globs]
        places = [(ROOT.joinpath(*name.split(".")), glob) for name, glob in globs if name.split(".")[0] == folder]
        brought = {file for place, glob in places for file in place.glob(glob)}
        assert {file for file in (ROOT / folder).rglob("*") if re.fullmatch(pattern, file.name)} <= brought
