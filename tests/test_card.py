"""Model cards as the hub reads them, and uploads to a stand-in of the hub."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

import train
from scripts import export, merge
from tests.hub import stand_in
from tests.small_stream import config, data, results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a stream of two files was trained from a model whose own card names a base and a licence."""
    place = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(place):
        data(Path(), "first", "second")
        file = config(Path(), "first", "second")
        Path("tiny/README.md").write_text("---\nlicense: mit\nbase_model: owner/origin\n---\n# Tiny\n")
        assert train.main([file, "seed=18"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def front_matter(card: Path) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card.read_text(), re.DOTALL)
    assert found is not None
    return dict(yaml.safe_load(found[1]))


def test_a_run_s_card_says_what_the_model_is(folder: Path) -> None:
    card = Path("runs/mine/README.md")
    about = front_matter(card)
    assert about["base_model"] == ["owner/origin"] and about["base_model_relation"] == "finetune"
    assert about["license"] == "mit" and about["pipeline_tag"] == "text-generation"
    text = card.read_text()
    assert "first → second, in this order, with the method `sfa` (p=0.5, beta=0.5" in text
    assert "sfa run stream.yaml seed=18" in text and "2, 4" in text
    for row in results(Path())["evaluations"]:
        stderr = "" if row["stderr"] is None or row["n"] == 1 else f" ± {row['stderr']:.3f}"
        assert re.search(rf"\| {row['after']} .*{row['value']:.3f}{stderr}", text)


def test_an_exported_model_has_a_card_and_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert export.main(["runs/mine", str(out), "--license", "apache-2.0"]) == 0
    assert front_matter(out / "README.md")["license"] == "apache-2.0"
    AutoModelForCausalLM.from_pretrained(out)
    assert export.main(["runs/mine", str(out)]) == 0  # replaces a model


def test_a_merge_s_card_names_its_models(folder: Path, tmp_path: Path) -> None:
    stages = [f"runs/stages/{stage['fingerprint']}/model" for stage in results(Path())["stages"]]
    assert merge.main(["average", *stages, "--beta", "0.25", "--out", str(tmp_path / "merged")]) == 0
    about = front_matter(tmp_path / "merged" / "README.md")
    assert "merge" in about["tags"] and about["license"] == "unknown"
    assert f"sfa merge average {stages[0]}" in (tmp_path / "merged" / "README.md").read_text()


def test_adapters_have_a_card_of_adapters(folder: Path, tmp_path: Path) -> None:
    file = config(Path(), "first", name="adapters", method="sequential", model={"name": "tiny", "lora": {"rank": 2}})
    assert train.main([file]) == 0
    assert export.main(["runs/adapters", str(tmp_path / "out")]) == 0
    about = front_matter(tmp_path / "out" / "README.md")
    assert about["base_model_relation"] == "adapter" and about["library_name"] == "peft"
    assert export.main(["runs/adapters", str(tmp_path / "out")]) == 0


def test_a_model_is_uploaded_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    with stand_in(monkeypatch) as hub:
        assert export.main(["runs/mine", str(out)]) == 0 and not hub.repositories
        assert export.main(["runs/mine", str(out), "--push", "owner/mine"]) == 0
        assert hub.repositories["owner/mine"]["visibility"] == "private"
        assert {name: content for (_, name), content in hub.files.items()} == {
            file.name: file.read_bytes() for file in out.iterdir()
        }
        assert "README.md" in {name for _, name in hub.files}
        assert capsys.readouterr().out.splitlines()[-1] == f"{hub.address}/owner/mine"
        assert export.main(["runs/mine", str(out), "--push", "owner/open", "--public"]) == 0
        assert hub.repositories["owner/open"]["visibility"] == "public"
        hub.refuses = True
        assert export.main(["runs/mine", str(out), "--push", "owner/mine"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "was not uploaded to owner/mine" in line and f"The model is in {out}" in line
    monkeypatch.undo()


def test_without_the_hub_an_upload_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["runs/mine", str(tmp_path / "model"), "--push", "owner/mine"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was not uploaded to owner/mine: Cannot reach" in line
    with pytest.raises(SystemExit, match="2"):
        export.main(["runs/mine", str(tmp_path / "other"), "--public"])
