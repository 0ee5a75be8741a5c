"""Commands on missing or incomplete files report it in one line, and print nothing unexpected to a terminal."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train
from eval import TASK_FILES
from eval.lm_tasks import build_task, read_task
from scripts import compare, curves, evaluate, export, figures, merge, report, sweep, tables
from sfa.data.source import SourceError
from tests import COMPOSER
from tests.small import QUICKSTART, ROOT
from tests.test_train import SMALL

LICENCES = (TASK_FILES / "licences.yaml").read_text(encoding="utf-8")
LINE = "would be read as the number"


def kept_run(folder: Path, **changes: Any) -> Path:
    """A finished run of a single stage, with what the scripts read."""
    run = folder / "runs" / "one"
    run.mkdir(parents=True, exist_ok=True)
    stage = {
        "task": "a",
        "method": "sequential",
        "fingerprint": "00000000000000f0",
        "steps": 2,
        "merge_steps": [],
        "tokens": 1,
    }
    stage |= {"l2_from_anchor": 1.0, "seconds": 1.0, "peak_bytes": 1, "stored_examples": 0}
    row = {"evaluation": "a_loss", "metric": "loss", "value": 1.0, "stderr": None, "n": 3}
    config = {"method": "sequential", "tasks": [{"name": "a", "evals": ["a_loss"], "evaluate_only": False}]}
    content = {"name": "one", "config": {**config, "eval": {"tasks": None}, "sfa": {"p": 0.25}}}
    content |= {"seed": 1, "stages": [stage], "metrics": None}
    content |= {"evaluations": [{"after": after, **row} for after in ("base", "a")]}
    content = {key: value for key, value in {**content, **changes}.items() if value != "absent"}
    (run / "results.json").write_text(json.dumps(content))
    return run


def error_line(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The single line on stderr of a command that failed with ``code``."""
    printed = capsys.readouterr()
    assert code in (1, 2) and not printed.out and "Traceback" not in printed.err
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize("damage", ["absent", "a file", "empty", "torn", "a list", "no stages", "no row's value"])
def test_scripts_say_what_a_run_lacks(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = kept_run(tmp_path)
    results = run / "results.json"
    expected = str(results)
    if damage in ("absent", "a file", "empty"):
        results.unlink()
        expected = f"{run} contains no results.json"
    if damage in ("absent", "a file"):
        run.rmdir()
        expected = f"{run} was not found"
    if damage == "a file":
        run.touch()
        expected = f"{run} is a file"
    if damage == "torn":
        results.write_text(results.read_text()[:100])
    if damage == "a list":
        results.write_text("[]")
    if damage == "no stages":
        kept_run(tmp_path, stages="absent")
        expected = f"{results} lacks stages"
    if damage == "no row's value":
        kept_run(tmp_path, evaluations=[{"after": "base"}])
        expected = f"{results}: evaluations.0 lacks evaluation, metric, value"
    for command in (compare.main, curves.main):
        assert expected in error_line(capsys, command([str(run)]))
    assert expected in error_line(capsys, export.main([str(run), str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"sweep": "s"}', '{"sweep": "s", "runs": [{}]}', '{"sweep": "s", "runs": []}']
)
def test_a_report_says_what_a_sweep_lacks(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "s.json"
    if content is not None:
        index.write_text(content)
    assert str(index) in error_line(capsys, report.main([str(index), "--out", str(tmp_path / "report.html")]))
    assert str(tmp_path) in error_line(capsys, report.main([str(tmp_path), "--out", str(tmp_path / "report.html")]))
    assert not (tmp_path / "report.html").exists()


def test_export_says_what_is_gone_and_replaces_only_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = kept_run(tmp_path)
    assert "stages/00000000000000f0, a stage of" in error_line(capsys, export.main([str(run), str(tmp_path / "out")]))
    (tmp_path / "runs" / "stages" / "00000000000000f0").mkdir(parents=True)
    (tmp_path / "runs" / "stages" / "00000000000000f0" / "manifest.json").write_text('{"made": {}, "files": {}}')
    assert "exists and is not a model" in error_line(capsys, export.main([str(run), str(tmp_path)]))
    assert run.is_dir()


def usage(capsys: pytest.CaptureFixture[str], command: Any, *arguments: str) -> str:
    """The last line printed by a command that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        command([*arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_scripts_say_what_is_no_sweep_or_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "sweeps" / "none.yaml")
    for command in (tables.main, figures.main):
        assert command([absent]) == 2
        assert "No such file" in (said := capsys.readouterr().err) and len(said.splitlines()) == 2
        assert "name a sweep's file" in usage(capsys, command, "nothing.yaml")
    assert sweep.main([absent]) == 2
    assert "No such file" in capsys.readouterr().err
    assert sweep.main([QUICKSTART, "--over", "sfa.p", "017"]) == 2
    assert f"sfa.p: 017 {LINE} 15" in capsys.readouterr().err
    assert sweep.main([QUICKSTART, "--over", "sfa.p", "[1"]) == 2
    assert "sfa.p: cannot be read" in capsys.readouterr().err
    assert sweep.main([QUICKSTART, "--over", "sfa.p"]) == 2
    assert "sfa.p: is varied over no value" in capsys.readouterr().err
    assert "--jobs must be 1 or more" in usage(capsys, sweep.main, QUICKSTART, "--jobs", "0")
    assert "must be a local path, not s3://b/x" in usage(capsys, compare.main, "runs/none", "--markdown", "s3://b/x")
    assert "must end in one of" in usage(capsys, compare.main, "runs/none", "--picture", "curves.doc")
    assert "holds no safetensors" in usage(
        capsys, merge.main, "soup", str(tmp_path), absent, "--out", str(tmp_path / "o")
    )
    of_loss = ["--tasks", "arithmetic_loss"]
    assert "is neither" in usage(capsys, evaluate.main, str(tmp_path / "none"), *of_loss)
    assert f"the model {tmp_path} cannot be used: " in error_line(capsys, evaluate.main([str(tmp_path), *of_loss]))


def test_commands_end_quietly_whatever_their_output_is(tmp_path: Path) -> None:
    """Characters that the terminal lacks are escaped, and neither a closed pipe nor a closed stdout is an error."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    dry = f"{sys.executable} train.py {QUICKSTART} method=sfa dry_run=true save_folder={tmp_path}"
    code = "print('\\u03b2\\u2192\\xb1' * 99999, file=sys.%s)"
    show = f"import sys; from sfa.terminal import start; start(lambda _: {code} or 0)"
    script = f"{dry} | head -n 1; echo ${{PIPESTATUS[0]}}"
    for stream, to in (("stdout", "| head -c 9"), ("stdout", ">&-"), ("stderr", "2>&-"), ("stderr", "2>&1 | wc -c")):
        script += f"; {sys.executable} -c {shlex.quote(show % stream)} {to}; echo ' ' ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert first.startswith("quickstart: sfa, seed 17")
    assert " ".join(rest).split() == ["0", r"\u03b2\u2", "1", "0", "0", str(99999 * 16 + 1), "0"]


def test_the_launcher_passes_the_exit_code_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMPOSER, "-n", "1", "train.py", QUICKSTART, "metod=sfa", "seed=017", f"save_folder={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"seed: 017 {LINE} 15" in done.stderr


def test_a_run_says_its_own_lines_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bars of lm-eval; folders whose names contain markup or shell characters are printed as they are."""
    folder = tmp_path / "a b [bold] é"
    arguments = [
        f"save_folder='{folder}'",
        "tasks=[licences]",
        "model.tokenizer.train_on=[arithmetic]",
        "trial_duration=2ba",
    ]
    assert train.main([QUICKSTART, *SMALL, *arguments, "method=sequential"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert str(folder / "quickstart" / "results.json") in printed.out
    assert len(printed.out.splitlines()) <= 14


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        (
            "doc_to_choice: choices",
            [{}],
            "doc_to_choice refers to the column choices, but the rows of new have",
        ),
        ("doc_to_choice: choices", [{"choices": ["x"]}], "new: the response 'b' is not among the choices ['x']"),
        ("doc_to_text: [1", [{}], "new.yaml cannot be read: "),
        ("doc_to_target: '{{ 1 / 0 }}'", [{"choices": ["b"]}], "new.yaml is not an lm-eval task: "),
    ],
)
def test_a_new_tasks_file_says_what_its_rows_lack(
    text: str, rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "new.yaml"
    own = "\n".join(line for line in LICENCES.splitlines() if line.partition(":")[0] != text.partition(":")[0])
    file.write_text(f"{own}\n{text}\n")
    own_rows: list[Any] = [{"prompt": "a", "response": "b", **row} for row in rows]
    with pytest.raises(SourceError) as caught:
        build_task(file, read_task(file), own_rows, ["a"] * len(rows), " ")
    assert message in str(caught.value) and "\n" not in str(caught.value)
