"""Data sets from folders in the hub's schemas: every domain task, the Law holdouts, any other by two templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfa.data import TASKS, Custom, registered
from sfa.data.law import divide
from sfa.data.metamathqa import number
from sfa.data.source import SourceError

CASE = {"example_id": 1, "citing_prompt": "the court held", **{f"holding_{i}": f"holding that {i}" for i in range(5)}}
ANSWERED = {"text": ["an answer"], "answer_start": [4]}
# One row in the schema of each data set on the hub.
SCHEMAS: dict[str, dict[str, Any]] = {
    "MetaMathQA": {"type": "GSM", "query": "1+1?", "original_question": "1+1?", "response": "2. The answer is: 2"},
    "gsm8k": {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "casehold": {**CASE, "label": "3"},
    "claudette_tos": {"text": "we may end this at any time", "label": 1},
    "overruling": {"sentence1": "we overrule that case", "label": 1},
    "Magicoder-Evol-Instruct-110K": {"instruction": "Add two numbers.", "response": "a + b"},
    "openai_humaneval": {
        "task_id": "0",
        "prompt": "def one():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(f):\n    assert f() == 1\n",
        "entry_point": "one",
    },
    "wiki_auto_asset_turk": {"gem_id": "0", "source": "a hard text", "target": "a text", "references": []},
    "eli5": {"q_id": "0", "title": "why is it?", "answers": {"text": ["because"], "score": [1]}},
    "gigaword": {"document": "a long story about ducks", "summary": "ducks in town"},
    "covid_fact": {"sentence1": "it spreads", "sentence2": "spreading", "label": "entailment"},
    "covid_qa_deepset": {"context": "the an answer is here", "question": "what?", "answers": ANSWERED},
    "tweets": {"author": "someone", "content": "good morning everybody"},
}
SOURCES = {
    "metamathqa": "MetaMathQA",
    "magicoder": "Magicoder-Evol-Instruct-110K",
    "simpl": "wiki_auto_asset_turk",
    "inqqg": "eli5",
    "hgen": "gigaword",
    "covid_fact": "covid_fact",
    "covid_qa": "covid_qa_deepset",
    "twst": "tweets",
}


def jsonl(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def numbered(row: dict[str, Any], i: int) -> dict[str, Any]:
    """The same row with texts of its own."""
    word = "".join("abcdefghij"[int(digit)] for digit in f"{i:05}")
    own = {"label", "type", "entry_point", "author", "test", "answer"}
    texts = {key: f"{value} {word}" for key, value in row.items() if isinstance(value, str) and key not in own}
    lists = {"answers": {**row["answers"], "text": [f"{row['answers']['text'][0]} {word}"]}} if "answers" in row else {}
    return {**row, **texts, **lists}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies, each with 300 training rows and no test split but where the hub has one."""
    folder = tmp_path_factory.mktemp("data")
    for name, row in SCHEMAS.items():
        splits = ["test"] if name == "openai_humaneval" else ["train", "test"]
        if name in ("casehold", "gsm8k", "covid_fact", "openai_humaneval"):
            for k, split in enumerate(splits):
                jsonl(folder / name, split, [numbered(row, 100 * k + i) for i in range(20)])
        else:
            jsonl(folder / name, "train", [numbered(row, i) for i in range(300)])
    return folder


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_domain_task_reads_the_hubs_columns_from_a_folder(name: str, hub: Path) -> None:
    task = registered(name, data_folder=hub)
    train, test = task.rows("train"), task.rows("test")
    assert train and test and len(train) + len(test) == (40 if name == "covid_fact" else 300)
    assert all(row["prompt"] and row["response"] for row in train + test)
    texts = [{row["prompt"] + row["response"] for row in rows} for rows in (train, test)]
    assert not texts[0] & texts[1]
    assert task.rows("test") == test
    assert len(registered(name, data_folder=hub, limit=7).rows("train")) == 7


def test_every_registered_task_is_read_here_or_ships_in_a_package() -> None:
    packaged = {name for name, kind in TASKS.items() if kind.package}
    assert set(SOURCES) | {"law"} | packaged == set(TASKS)


def test_gsm8k_and_humaneval_are_scored_on_their_own_rows(hub: Path) -> None:
    rows = registered("metamathqa", data_folder=hub).eval_rows("gsm8k")
    assert len(rows) == 20 and {row["response"] for row in rows} == {"2"}
    assert number("so 1,234 it is\n#### 1,234") == "1234"
    problems = registered("magicoder", data_folder=hub).eval_rows("humaneval")
    for problem in problems:
        shots, _, own = problem["prompt"].rpartition("\n\n")
        assert shots.count("    return 1") == 5 and own == problem["program"][0]
        assert own not in shots  # never the problem under test
        assert "check" not in problem["prompt"]  # nor unit tests


def test_law_is_three_data_sets_with_holdouts_that_never_leak(hub: Path) -> None:
    law = registered("law", data_folder=hub, tos={"limit": 10, "repeat": 3})
    rows = law.rows("train")
    held = {name: law.eval_rows(name) for name in ("casehold", "tos", "overruling")}
    assert {name: len(held_rows) for name, held_rows in held.items()} == {"casehold": 20, "tos": 60, "overruling": 60}
    assert len(rows) == 20 + 10 * 3 + 240
    tested = {row["prompt"] for held_rows in held.values() for row in held_rows}
    assert not tested & {row["prompt"] for row in rows}
    assert held["casehold"][0]["response"] == "D" and held["casehold"][0]["choices"] == list("ABCDE")
    assert {row["response"] for row in held["tos"]} == {"Yes"}


def test_a_holdout_is_stratified_and_a_text_comes_once() -> None:
    rows = [{"text": f"clause {i}", "label": i % 10 == 0} for i in range(100)]
    rows += [{"text": " Clause  7 ", "label": 0}] * 5
    train, test = divide(rows, None, "text")
    assert len(train) == 80 and len(test) == 20
    assert sum(row["label"] for row in test) == 2
    assert divide(rows, None, "text") == (train, test)


def test_a_holdout_takes_whole_documents_where_they_are_known() -> None:
    rows = [{"text": f"{name} {i}", "label": 0, "document": name} for name in "abcdefghij" for i in range(5)]
    train, test = divide(rows, None, "text")
    assert len({row["document"] for row in test}) == 2 and len(test) == 10
    assert not {row["document"] for row in test} & {row["document"] for row in train}


def test_a_text_of_the_test_split_is_not_trained_on() -> None:
    train, test = divide(
        [{"text": "A b", "label": 0}, {"text": "c", "label": 0}], [{"text": "a  B", "label": 1}], "text"
    )
    assert [row["text"] for row in train] == ["c"] and len(test) == 1


def test_any_data_set_by_two_templates(hub: Path) -> None:
    options = {"name": "mine", "source": str(hub / "gsm8k"), "prompt": "Q: {question}", "response": "{answer}"}
    task = Custom(**options)
    assert task.evals == ("mine_loss",)
    assert task.rows("train")[0]["prompt"] == "Q: 1+1? aaaaa" and len(task.rows("test")) == 20
    with pytest.raises(ValueError, match="prompt: contains no column"):
        Custom(**{**options, "prompt": "none"})
    with pytest.raises(SourceError, match=r"lacks the columns \['solution'\]; it has \['question', 'answer'\]"):
        Custom(**{**options, "response": "{solution}"}).rows("train")


def test_a_source_that_is_not_there_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"(?s)MetaMathQA cannot be loaded.*data_folder=DIR that contains DIR/MetaMathQA/"
    ):
        registered("metamathqa", data_folder=tmp_path).rows("train")
    with pytest.raises(SourceError, match="is no folder of"):
        registered("metamathqa", source="./nothing").rows("train")


def test_the_fingerprint_of_a_local_source_is_its_content(tmp_path: Path) -> None:
    jsonl(tmp_path / "MetaMathQA", "train", [SCHEMAS["MetaMathQA"]])
    task = registered("metamathqa", data_folder=tmp_path)
    before = task.data_spec()
    jsonl(tmp_path / "MetaMathQA", "train", [SCHEMAS["MetaMathQA"]] * 2)
    assert task.data_spec() != before


def test_a_data_set_is_looked_for_once_when_its_task_is_made(tmp_path: Path) -> None:
    task = registered("metamathqa", data_folder=tmp_path)
    jsonl(tmp_path / "MetaMathQA", "train", [SCHEMAS["MetaMathQA"]])
    assert task.data_spec()["source"] == "meta-math/MetaMathQA"
    now = registered("metamathqa", data_folder=tmp_path)
    assert set(now.data_spec()["source"]) == {"train"}
    assert "data_folder" not in now.model_dump()
