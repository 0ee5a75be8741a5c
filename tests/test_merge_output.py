"""Merges write all or nothing: of finite weights, of a model's own files, and where nothing is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfa import merging
from tests.folders import bare, files


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["average", "soup", "task_arithmetic", "ties", "fisher", "fishers"])
def test_a_source_that_is_not_finite_is_named_and_nothing_is_left(method: str, value: float, tmp_path: Path) -> None:
    good = bare(tmp_path / "good", a=[1.0, 2.0], b=[[1.0, 2.0]])
    other = bare(tmp_path / "other", a=[3.0, 2.0], b=[[1.0, 1.0]])
    wrong = bare(tmp_path / "wrong", a=[1.0, 1.0], b=[[1.0, value]])
    calls: dict[str, Callable[[Path], Any]] = {
        "average": lambda out: merging.average(good, wrong, 0.5, out),
        "soup": lambda out: merging.soup([good, other, wrong], out),
        "task_arithmetic": lambda out: merging.task_arithmetic(wrong, [good], [1.0], out),
        "ties": lambda out: merging.ties(good, [other, wrong], [1.0, 1.0], out),
        "fisher": lambda out: merging.fisher([good, wrong], [good, good], [1.0, 1.0], out),
        "fishers": lambda out: merging.fisher([good, other], [good, wrong], [1.0, 1.0], out),
    }
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "out", tmp_path / "there"):
        with pytest.raises(ValueError, match=r"b in .*wrong/model.safetensors is not finite"):
            calls[method](out)
    assert not (tmp_path / "out").exists() and files(tmp_path / "there") == []


def test_large_finite_weights_are_no_error_and_a_merge_that_overflows_is(tmp_path: Path) -> None:
    first, second = bare(tmp_path / "one", a=[3e38, 3e38]), bare(tmp_path / "two", a=[3e38, 2e38])
    merging.average(first, second, 0.5, tmp_path / "average")
    with pytest.raises(ValueError, match="the merged a is not finite"):
        merging.task_arithmetic(bare(tmp_path / "base", a=[0.0, 0.0]), [first, second], [1.0, 1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stray_file_is_neither_merged_nor_copied(tmp_path: Path) -> None:
    first, second = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    for folder in (first, second):
        save_file({"a": torch.full((1,), 100.0)}, folder / "model_ema.safetensors")
        (folder / "pytorch_model.bin").write_bytes(b"")
        (folder / "note.txt").write_text(folder.name)
    save_file({"b": torch.ones(1)}, second / "extra.safetensors")
    assert merging.soup([first, second], tmp_path / "out")[-1].endswith("kept: note.txt.")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [2.0]
    assert files(tmp_path / "out") == ["model.safetensors", "note.txt"]


def test_a_merge_that_was_killed_is_made_again(tmp_path: Path) -> None:
    first, second = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    (tmp_path / "out" / ".part").mkdir(parents=True)
    (tmp_path / "out" / ".part" / "half").write_text("")
    merging.soup([first, second], tmp_path / "out")
    assert files(tmp_path / "out") == ["model.safetensors"]


@pytest.mark.parametrize("out", ["one", "one/inside", "two/in/side", "full"])
def test_a_result_is_not_written_over_or_into_what_is_there(out: str, tmp_path: Path) -> None:
    first, second = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    bare(tmp_path / "full", a=[5.0])
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"is not empty|which is merged: write the result elsewhere"):
        merging.soup([first, second], tmp_path / out)
    assert files(tmp_path) == before


def test_negative_weights_of_task_arithmetic_forget(tmp_path: Path) -> None:
    base, model = bare(tmp_path / "base", a=[1.0]), bare(tmp_path / "one", a=[3.0])
    merging.task_arithmetic(base, [model], [-0.5], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [0.0]
