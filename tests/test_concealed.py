"""No variable of the environment is written down: a config's interpolation is, as it stands there."""

import json
from pathlib import Path

import pytest

import train
from sfa.config import ConfigError, load

MNIST = Path(train.__file__).parent / "yamls" / "mnist.yaml"
SECRET = "s3cr3t-t0ken-0123"


def test_a_run_writes_what_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIDDEN_STEPS", "3")
    monkeypatch.setenv("HIDDEN_PLACE", f"{SECRET}-folder")
    file = tmp_path / "config.yaml"
    text = MNIST.read_text().replace("loggers: {}", "loggers: {file: {log_traces: false, filename: FILE}}")
    text = text.replace("FILE", f"'{tmp_path}/${{oc.env:HIDDEN_PLACE}}.log'").replace("5ep", "${oc.env:HIDDEN_STEPS}ba")
    file.write_text(text)
    arguments = [str(file), f"save_folder={tmp_path / 'runs'}", "eval.limit=20", "method=sequential"]
    assert train.main(arguments) == 0
    written = [f for f in (tmp_path / "runs").rglob("*") if f.is_file() and f.suffix in (".json", ".txt", ".log")]
    assert len(written) > 5
    for path in written:
        assert SECRET not in path.read_text(), path
    config = json.loads((tmp_path / "runs" / "mnist" / "results.json").read_text())["config"]
    assert config["loggers"]["file"]["filename"].endswith("${oc.env:HIDDEN_PLACE}.log")
    assert config["train"]["max_duration"] == "${oc.env:HIDDEN_STEPS}ba"
    out = capfd.readouterr()
    assert SECRET not in out.out + out.err
    assert (tmp_path / f"{SECRET}-folder.log").is_file()  # it was used


def test_an_error_does_not_say_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN_TOKEN", SECRET)
    with pytest.raises(ConfigError) as caught:
        load(MNIST, ["train.lr=${oc.env:HIDDEN_TOKEN}", "method=${oc.env:HIDDEN_TOKEN}"])
    assert SECRET not in str(caught.value) and "${oc.env:HIDDEN_TOKEN}" in str(caught.value)


def test_the_value_counts_and_not_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN_SEED", "23")
    assert load(MNIST, ["seed=${oc.env:HIDDEN_SEED}"]).seed == 23
