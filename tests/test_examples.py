"""The examples run as they are, and averaging keeps more of the first task than training alone."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests import peers

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d\.\d\d", line)]


def test_the_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "plain_loop.py"))
    before, without, averaged = map(numbers, capsys.readouterr().out.splitlines())
    assert averaged[0] > without[0] and before[0] > 0.9
    assert without[1] > averaged[1] > 0.5


def test_lightning(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "lightning_trainer.py"))
    *_, after = [numbers(line) for line in capsys.readouterr().out.splitlines() if line.startswith("after")]
    assert after[0] > 0.9 and after[1] > 0.5


def test_trl_with_lora(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "trl_sft_lora.py"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("after")]
    before, without, averaged = map(numbers, lines)  # losses
    assert before[0] < averaged[0] < without[0]


@pytest.mark.slow
def test_deepspeed_on_two_ranks() -> None:
    printed = peers.run([*LAUNCHER, str(EXAMPLES / "deepspeed_zero3.py")])
    *_, after = [numbers(line) for line in printed.splitlines() if line.startswith("after task")]
    assert after[0] > 0.9 and after[1] > 0.5


def code_cells() -> list[str]:
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    runnable = [
        cell for cell in cells if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", [])
    ]
    return ["".join(cell["source"]) for cell in runnable]


def test_the_notebook_names_what_exists() -> None:
    for cell in code_cells():
        compile(cell, "quickstart.ipynb", "exec")
        for module in re.findall(r"(?:import|from) (train|scripts\.\w+)", cell):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert (ROOT / "yamls" / "quickstart.yaml").is_file()


@pytest.mark.slow
def test_the_notebook_draws_the_quickstarts_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yamls").symlink_to(ROOT / "yamls")
    names: dict[str, object] = {}
    for cell in code_cells():
        exec(cell.replace("from IPython.display import Image", "from pathlib import Path as Image"), names)
        if "SMALLER" in cell and isinstance(names.get("SMALLER"), list):
            names["SMALLER"] = ["train.max_duration=4ba", "eval.limit=4"]
    assert (tmp_path / "runs" / "quickstart.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "packages"),
    [
        ("plain_loop.py", []),
        ("trl_sft_lora.py", ["transformers", "accelerate", "trl", "peft"]),
        ("lightning_trainer.py", ["lightning"]),
        ("deepspeed_zero3.py", ["deepspeed==0.19.8", "setuptools"]),
    ],
)
def test_it_runs_in_a_fresh_environment(example: str, packages: list[str], tmp_path: Path) -> None:
    """With this package's core and what the example names; the versions are those that the tests use."""
    python = tmp_path / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    subprocess.run([*install, str(ROOT), *packages], check=True)
    listed = subprocess.run([*uv, "pip", "list", "--python", str(python)], capture_output=True, text=True, check=True)
    assert not re.search(r"^(mosaicml|omegaconf|mergekit) ", listed.stdout, re.MULTILINE)
    # One thread: several wait for each other where another process is busy.
    clean = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    clean["PATH"] = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    launcher = LAUNCHER if packages and packages[0].startswith("deepspeed") else []
    done = subprocess.run(
        [str(python), *launcher, str(EXAMPLES / example)],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert re.search("after (the second task|task 2)", done.stdout)
