"""``sfa new`` writes a config that is valid as it is."""

import json
from pathlib import Path

import pytest

from eval import available
from scripts import cli, new_config
from sfa.config import load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    return tmp_path


def test_two_files_and_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("law.jsonl").write_text('{"id": 1, "question": "a?", "answer": "b"}\n' * 3)
    Path("my maths.csv").write_text("problem,solution\n1+1,2\n")
    assert cli.main(["new", "mine", "law.jsonl", "my maths.csv", "--model", "owner/model"]) == 0
    assert capsys.readouterr().out == "mine.yaml\nnext: sfa run mine.yaml --dry-run\n"
    config = load("mine.yaml", [], available)
    assert config.model.name == "owner/model" and config.method == "sfa"
    first, second = (task.model_dump() for task in config.tasks)
    assert (first["name"], first["prompt"], first["response"]) == ("my-law", "{question}", "{answer}")
    assert (second["name"], second["prompt"], second["response"]) == ("my-maths", "{problem}", "{solution}")
    assert max(map(len, Path("mine.yaml").read_text().splitlines())) <= 120
    assert new_config.main(["mine"]) == 2
    assert "mine.yaml exists" in capsys.readouterr().err


def small(folder: Path, positions: int, kind: str = "gpt2") -> str:
    """A folder with a configuration alone."""
    folder.mkdir(parents=True)
    key = {"gpt2": "n_positions", "t5": "unused"}.get(kind, "max_position_embeddings")
    (folder / "config.json").write_text(json.dumps({"model_type": kind, key: positions}))
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "positions", "seq_len", "bound"),
    [
        ("gpt2", 256, 256, "at most the model's 256"),
        ("llama", 8192, 1024, "at most the model's 8,192"),
        ("t5", 0, 1024, "as many as memory allows"),
        ("no such kind", 8192, 512, "at most the model's positions"),
    ],
)
def test_sequences_fit_the_model(here: Path, kind: str, positions: int, seq_len: int, bound: str) -> None:
    assert new_config.main(["mine", "--model", small(here / "model", positions, kind)]) == 0
    assert f"  seq_len: {seq_len}  # tokens per sequence, {bound};" in Path("mine.yaml").read_text()


def test_sequences_fit_a_downloaded_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = small(here / "hub" / "snapshots" / "a", 128)
    monkeypatch.setattr(new_config, "try_to_load_from_cache", lambda name, file: f"{snapshot}/{file}")
    assert new_config.main(["mine", "--model", "owner/name"]) == 0
    assert "  seq_len: 128  #" in Path("mine.yaml").read_text()
    monkeypatch.setattr(new_config, "try_to_load_from_cache", lambda name, file: None)
    assert new_config.main(["other", "--model", "owner/name"]) == 0
    assert "  seq_len: 512  #" in Path("other.yaml").read_text()


def test_conversations_get_the_chat_template() -> None:
    Path("chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    assert new_config.main(["mine", "chats.jsonl"]) == 0
    assert load("mine.yaml", ["method=sequential"], available).model.template == "chat"


def test_without_files_there_are_places_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_config.main(["mine"]) == 0
    Path("data").mkdir()
    for name in ("first", "second"):
        Path(f"data/{name}.jsonl").write_text('{"question": "a?", "answer": "b"}\n')
    assert [task.name for task in load("mine.yaml", [], available).tasks] == ["first", "second"]
    assert new_config.main(["other", "none.jsonl"]) == 1
    assert "none.jsonl does not exist" in capsys.readouterr().err
    Path("second.jsonl").write_text('{"question": "a?", "answer": "b"}\n')
    assert new_config.main(["other", "data/second.jsonl", "second.jsonl"]) == 2
