"""Rows held out of a data set without a test split: by the whole prompt, the same everywhere, and how many is said."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfa.data import Custom, Images
from sfa.data.holdout import draw
from sfa.data.instructions import Simpl
from sfa.data.source import SourceError


def custom(folder: Path, rows: list[dict[str, Any]], prompt: str = "{instruction}\n{input}", **options: Any) -> Custom:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Custom(name="mine", source=str(folder), prompt=prompt, response="{output}", **options)


def alpaca(n: int, inputs: int = 10**9) -> list[dict[str, Any]]:
    """Rows of three instructions."""
    return [{"instruction": "abc"[i % 3], "input": f"text {i % inputs}", "output": f"out {i}"} for i in range(n)]


def test_three_instructions_are_all_trained_and_one_row_in_fifty_is_held_out(tmp_path: Path) -> None:
    task = custom(tmp_path / "d", alpaca(3000))
    train, test = task.rows("train"), task.rows("test")
    assert len(train) + len(test) == 3000 and 40 <= len(test) <= 80
    assert {row["prompt"][0] for row in train} == {row["prompt"][0] for row in test} == set("abc")
    expected = {
        row["prompt"] for row in train + test if int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % 50 == 0
    }
    assert {row["prompt"] for row in test} == expected


def test_rows_of_one_prompt_are_on_one_side(tmp_path: Path) -> None:
    task = custom(tmp_path / "d", alpaca(3000, inputs=250))
    train, test = ({row["prompt"] for row in task.rows(split)} for split in ("train", "test"))
    assert train and test and not train & test
    rows = [{"original": f"hard {i // 2}", "simplifications": [f"easy {i} {k}" for k in range(10)]} for i in range(40)]
    (tmp_path / "asset").mkdir()
    (tmp_path / "asset" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asset = Simpl(source=str(tmp_path / "asset"), columns=("original", "simplifications"))
    train, test = ({row["prompt"] for row in asset.rows(split)} for split in ("train", "test"))
    assert train and test and not train & test and len(asset.rows("test")) % 20 == 0


def test_few_prompts_are_drawn_by_whole_rows_and_equal_rows_stay_together(tmp_path: Path) -> None:
    rows = alpaca(900) * 2
    task = custom(tmp_path / "d", rows, prompt="{instruction}")
    train, test = ({row["prompt"] + row["response"] for row in task.rows(split)} for split in ("train", "test"))
    assert len(train) + len(test) == 900 and not train & test and 5 <= len(test) <= 40
    assert {row["prompt"] for row in task.rows("train")} == set("abc")


@pytest.mark.parametrize("n", [1, 30])
def test_rows_of_which_no_fair_part_can_be_held_out(n: int, tmp_path: Path) -> None:
    task = custom(tmp_path / "d", [{"instruction": "a", "input": "b", "output": "c"}] * n)
    for split in ("train", "test"):
        with pytest.raises(
            SourceError, match=rf"no fair share of {n} rows with 1 different whole rows .* split named test"
        ):
            task.rows(split)  # type: ignore[arg-type]


def test_two_rows_are_one_to_train_on_and_one_held_out(tmp_path: Path) -> None:
    task = custom(tmp_path / "d", alpaca(2))
    assert [len(task.rows(split)) for split in ("train", "test")] == [1, 1]


def test_the_draw_is_the_same_on_every_machine(tmp_path: Path) -> None:
    keys = [f"prompt\n{i}" for i in range(500)]
    held = {key for key, is_held in zip(keys, draw({"prompts": keys}, 50, "x"), strict=True) if is_held}
    backwards = draw({"prompts": [key.replace("\n", "\r\n") for key in keys[::-1]]}, 50, "x")
    assert [key for key, is_held in zip(keys[::-1], backwards, strict=True) if is_held] == [
        k for k in keys[::-1] if k in held
    ]
    keyed = "{'p': [f'prompt\\n{i}' for i in range(500)]}"
    code = f"from sfa.data.holdout import draw; print(sum(i * h for i, h in enumerate(draw({keyed}, 50, 'x'))))"
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(output.stdout) == sum(i for i, key in enumerate(keys) if key in held)


def test_how_many_are_held_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = custom(tmp_path / "d", alpaca(100))
    with caplog.at_level(logging.WARNING):
        held = len(task.rows("test"))
        task.rows("train")
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"mine: train of {tmp_path / 'd'}: {held} of 100 rows are held out, by their prompts, as there is no test split"
    ]


def test_the_split_to_train_on_is_the_one_that_is_drawn_from(tmp_path: Path) -> None:
    task = custom(tmp_path / "d", alpaca(10), train_split="sft")
    (tmp_path / "d" / "sft.jsonl").write_text(
        "".join(json.dumps({**row, "input": row["input"] + " sft"}) + "\n" for row in alpaca(200))
    )
    rows = [task.rows("train"), task.rows("test")]
    assert len(rows[0]) + len(rows[1]) == 200 and all(row["prompt"].endswith("sft") for part in rows for row in part)
    with pytest.raises(ValueError, match="test_split: sft is the split that the task is trained on"):
        custom(tmp_path / "e", [], train_split="sft", test_split="sft")


def test_equal_images_are_on_one_side(tmp_path: Path) -> None:
    for i in range(100):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}_again.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
    names = [f"{i}{end}" for end in ("", "_again") for i in range(100)]
    (tmp_path / "d").mkdir()
    lines = [f"{tmp_path / name}.png,{i % 2}" for i, name in enumerate(names)]
    (tmp_path / "d" / "train.csv").write_text("\n".join(["image,label", *lines]))
    task = Images(name="m", source=str(tmp_path / "d"), classes=2)
    parts = [[Path(row["image"]).stem for row in task.rows(split)] for split in ("train", "test")]  # type: ignore[arg-type]
    assert sorted(parts[0] + parts[1]) == sorted(names) and 4 <= len(parts[1]) <= 40
    assert not {name.split("_")[0] for name in parts[0]} & {name.split("_")[0] for name in parts[1]}
