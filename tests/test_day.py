"""A day through the command line: two files, a run and a report; the next day a third file and a model card."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import cli
from tests.hub import stand_in
from tests.small_stream import data, model

QUICK = ["train.max_duration=4ba", "train.global_batch_size=2", "train.seq_len=48", "eval.interval=null", "loggers={}"]
QUICK += ["parallelism=none", "train.lr=0.01"]


def sfa(*words: str) -> int:
    return cli.main([*words])


def results(name: str) -> dict[str, Any]:
    return dict(json.loads(Path("runs", name, "results.json").read_text()))


def test_from_two_files_to_a_model_card_and_back_with_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sfa"])
    data(Path(), "maths", "laws")
    tiny = model(Path())

    assert sfa("new", "mine", "maths.jsonl", "laws.jsonl", "--model", tiny) == 0
    assert sfa("run", "mine.yaml", "--dry-run", *QUICK) == 0
    said = capsys.readouterr().out
    assert "maths: 39 rows to train on" in said or "maths: 38 rows to train on" in said
    assert "maths 0?« " in said and not Path("runs").exists()
    assert sfa("run", "mine.yaml", *QUICK) == 0
    assert "next: sfa export runs/mine models/mine" in capsys.readouterr().out
    assert sfa("report", "runs/mine", "--out", "report.html") == 0
    page = Path("report.html").read_text()
    assert "maths → laws" in page and "sfa run mine.yaml" in page

    Path("maths.jsonl").unlink()  # the next day
    data(Path(), "codes")
    assert sfa("new", "longer", "codes.jsonl", "--model", tiny) == 0
    before = {file.parent.name for file in Path("runs/stages").glob("*/manifest.json")}
    assert sfa("run", "longer.yaml", "--from", "runs/mine", *QUICK) == 0
    longer = results("longer")
    assert [stage["task"] for stage in longer["stages"]] == ["maths", "laws", "codes"]
    assert longer["stages"][:2] == results("mine")["stages"]
    after = {file.parent.name for file in Path("runs/stages").glob("*/manifest.json")}
    assert after - before == {longer["stages"][-1]["fingerprint"]}
    capsys.readouterr()
    assert sfa("list") == 0
    assert "2 runs, 4 stages of" in capsys.readouterr().out
    assert sfa("prune", "--older-than", "0", "--yes") == 0
    assert "nothing to delete" in capsys.readouterr().out

    with stand_in(monkeypatch) as hub:
        assert sfa("export", "runs/longer", "models/longer", "--license", "mit", "--push", "owner/longer") == 0
    card = hub.files["owner/longer", "README.md"].decode()
    assert "license: mit" in card and "maths → laws → codes" in card and "sfa run longer.yaml" in card
    assert ("owner/longer", "model.safetensors") in hub.files
