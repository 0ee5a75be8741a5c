"""Data sets with class labels, without code: ``choices`` in the config, scored by the likeliest."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from sfa.data import Custom
from sfa.data.source import SourceError

LABELS = ["good", "bad", "neither nor"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 rows to train on and 12 to test, a third of each label."""
    for split, n in (("train", 60), ("test", 12)):
        rows = [{"text": f"{split} sentence {i} is {LABELS[i % 3]}", "label": LABELS[i % 3]} for i in range(n)]
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mine"


def task(folder: Path, **options: Any) -> Custom:
    return Custom(name="mine", source=str(folder), prompt="{text}\nIt is:", response="{label}", **options)


def test_every_row_has_the_choices_and_the_task_an_accuracy(folder: Path) -> None:
    mine = task(folder, choices=LABELS)
    assert mine.evals == ("mine_accuracy",) and set(mine.declared()) == {"mine_loss", "mine_accuracy"}
    row = mine.rows("test")[1]
    assert row["response"] == "bad" and row["choices"] == LABELS


def test_a_mapping_says_how_a_label_is_written(folder: Path) -> None:
    row = task(folder, choices={"good": "A", "bad": "B", "neither nor": "C"}).rows("train")[2]
    assert row["response"] == "C" and row["choices"] == ["A", "B", "C"]


def test_a_response_that_is_no_choice_is_named(folder: Path) -> None:
    with pytest.raises(SourceError, match="'neither nor' is not one of mine's choices"):
        task(folder, choices=["good", "bad"]).rows("test")


@pytest.mark.parametrize("choices", [["good"], ["good", "good"], {"good": "A", "bad": "A"}, ["good", ""], []])
def test_choices_are_two_or_more_different_texts(folder: Path, choices: Any) -> None:
    with pytest.raises(ValueError, match="two or more different texts"):
        task(folder, choices=choices)


def test_without_choices_nothing_changes(folder: Path) -> None:
    plain = task(folder)
    assert plain.evals == ("mine_loss",) and "choices" not in plain.data_spec()
    assert "choices" not in plain.rows("test")[0]
    assert task(folder, choices=LABELS).data_spec() != plain.data_spec()


def test_the_likeliest_choice_is_scored(folder: Path) -> None:
    """A run's accuracy against log-probabilities that transformers computes for each row and choice."""
    runs = folder.parent / "runs"
    config = folder.parent / "mine.yaml"
    config.write_text(
        f"""
name: mine
model:
  architecture: gpt_neox
  config: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64,
           initializer_range: 0.3}}
  tokenizer: {{train_on: null, vocab_size: 300}}
tasks:
  - {{name: mine, source: {folder}, prompt: "{{text}}\\nIt is:", response: "{{label}}",
     choices: [good, bad, neither nor]}}
method: sequential
train: {{max_duration: 3ba, global_batch_size: 2, seq_len: 64, lr: 1.0e-3}}
eval: {{interval: null}}
loggers: {{}}
save_folder: {runs}
"""
    )
    assert train.main([str(config)]) == 0
    results = json.loads((runs / "mine" / "results.json").read_text())
    (score,) = [row for row in results["evaluations"] if row["after"] == "mine"]
    assert score["evaluation"] == "mine_accuracy" and score["n"] == 12 and score["majority"] == pytest.approx(1 / 3)
    model_folder = runs / "stages" / results["stages"][0]["fingerprint"] / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    correct = []
    for row in task(folder, choices=LABELS).rows("test"):
        prompt = tokenizer(row["prompt"])["input_ids"]
        scores = []
        for choice in LABELS:
            ids = tokenizer(f"{row['prompt']} {choice}")["input_ids"]
            assert ids[: len(prompt)] == prompt
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(logs[at - 1, ids[at]]) for at in range(len(prompt), len(ids))))
        correct.append(LABELS[scores.index(max(scores))] == row["response"])
    assert score["value"] == pytest.approx(sum(correct) / 12)
    assert 0 < sum(correct) < 12  # a score that says something
