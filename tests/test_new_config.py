"""``sfa new`` writes a config that is valid as it is."""

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
