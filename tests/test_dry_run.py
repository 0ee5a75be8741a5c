"""A dry run says of people's own data what a run would do with them."""

import json
from pathlib import Path

import pytest

import train
from sfa.stages.duration import as_text
from tests.small_stream import config, data, task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data(Path(), "first", "second")
    return Path()


def said(file: str, capsys: pytest.CaptureFixture[str], *overrides: str) -> list[str]:
    capsys.readouterr()
    assert train.main([file, "dry_run=true", *overrides]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_data_and_the_first_example_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(config(folder, "first", "second"), capsys, "train.seq_len=14", "tasks.1.test_fraction=0.5")
    at = next(i for i, line in enumerate(lines) if line.startswith("first: "))
    assert lines[at] == (
        "first: 38 rows to train on, 2 held out, drawn by a hash of their content, as there is no test split; "
        "columns question, answer; splits train"
    )
    assert lines[at + 1].strip() == "first 0?« 5 and 0</s>»"
    assert (
        lines[at + 2].startswith("     learned: what is between « and »; ")
        and "are longer than train.seq_len: 14" in lines[at + 2]
    )
    second = next(line for line in lines if line.startswith("second: "))
    assert 10 < int(second.split(" held out")[0].split()[-1]) < 30
    assert not Path("runs").exists()


def test_data_that_a_run_could_not_use_fail_it_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("first.jsonl").write_text("")
    Path("second.jsonl").write_text('{"question": "x", "anser": "y"}\n')
    assert train.main([config(folder, "first", "second"), "dry_run=true"]) == 1
    out, err = capsys.readouterr()
    assert "disk: " in out and "cannot be read" not in out  # the plan is shown all the same
    assert err.split("\n")[-4:] == [
        "",
        "first: first.jsonl cannot be read: it holds no rows",
        "second: second.jsonl (train) lacks the columns ['answer']; it has ['question', 'anser']; did you mean anser?",
        "",
    ]
    data(Path(), "first", "second")
    assert train.main([config(folder, "first", "second"), "dry_run=true", "train.seq_len=8"]) == 1
    assert "first: no row fits into train.seq_len: 8 tokens" in capsys.readouterr().err


def test_held_out_rows_that_are_trained_on_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Path("first.jsonl").read_text().splitlines()
    Path("both").mkdir()
    Path("both/train.jsonl").write_text("\n".join(lines[:30]))
    other = json.dumps({"question": "first 0?", "answer": "another"})
    Path("both/test.jsonl").write_text("\n".join([*lines[25:35], other]))
    both = [task(folder, "first", source="both")]
    message = "first: the prompts of 6 of 11 held-out rows are also trained on, 5 of them with the same response"
    assert message in said(config(folder, tasks=both, method="sequential"), capsys)
    Path("both/test.jsonl").write_text("\n".join(lines[:10]))
    every = "first: the prompts of 10 of 10 held-out rows are also trained on, 10 of them with the same response"
    assert every in said(config(folder, tasks=both, method="sequential"), capsys)


def test_the_time_is_that_of_what_was_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(folder, "first", "second")
    assert not any(line.startswith("time: ") for line in said(file, capsys))
    assert train.main([config(folder, "first", method="sequential")]) == 0
    (line,) = [line for line in said(config(folder, "first", "second"), capsys) if line.startswith("time: ")]
    assert line.startswith("time: about ") and "for 1 training, at the pace of finished ones here" in line
    assert as_text(59.6) == "1 min 00 s" and as_text(7325) == "2 h 02 min" and as_text(3) == "3 s"


def test_a_name_that_the_hub_does_not_give_is_said_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "tasks=[{name: mine, source: owner/data, prompt: '{a}', response: '{b}'}, arithmetic]"
    lines = said(config(folder, "first", model={"name": "owner/model"}), capsys, tasks)
    assert "model.name: owner/model cannot be reached on the hub, and was not downloaded" in lines
    assert "tasks.0: owner/data cannot be reached on the hub, and was not downloaded" in lines


@pytest.mark.parametrize(
    ("overrides", "are_copied"),
    [
        (["train.microbatch_size=1"], True),
        (["train.microbatch_size=null"], False),  # the copies go as the gradients come
        (["train.microbatch_size=1", "train.precision=fp32"], False),
        (["model.lora={rank: 2}"], True),  # no gradients come
        (["train.microbatch_size=1", "parallelism=fsdp2"], False),  # of gathered layers alone
    ],
)
def test_bfloat16_copies_are_counted_where_they_add_to_the_gradients(
    overrides: list[str], are_copied: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["train.precision=amp_bf16", "train.global_batch_size=4", *overrides]
    lines = said(config(folder, "first", "second"), capsys, *settings)
    (count,) = [int(line.split()[1].strip(",").replace(",", "")) for line in lines if line.startswith("parameters: ")]
    (memory,) = [line for line in lines if line.startswith("memory: ")]
    assert (f"; {2 * count / 2**10:.1f} KiB of bfloat16 copies of weights" in memory) == are_copied


@pytest.mark.parametrize(
    ("overrides", "trained", "checkpoints"),
    [
        (["train.optimizer=adamw"], 16, 24),
        (["train.optimizer=sgd", "train.momentum=0.9"], 12, 16),
        (["train.optimizer=sgd"], 8, 8),
        (["train.optimizer=sgd", "tasks.1.train.optimizer=adamw"], 16, 24),  # the most demanding stage counts
    ],
)
def test_memory_and_disk_are_those_of_the_optimizer(
    overrides: list[str], trained: int, checkpoints: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes per parameter: weights and gradients, then two numbers of AdamW, one of momentum, none of SGD."""
    lines = said(config(folder, "first", "second"), capsys, *overrides)
    (count,) = [int(line.split()[1].replace(",", "")) for line in lines if line.startswith("parameters: ")]
    (memory,) = [line for line in lines if line.startswith("memory: ")]
    (disk,) = [line for line in lines if line.startswith("disk: ")]
    assert memory.startswith(f"memory: {count * trained / 2**10:.1f} KiB / 1 per rank")
    assert disk.endswith(f"and up to {count * checkpoints / 2**10:.1f} KiB for checkpoints while a stage trains")


def test_adapters_alone_need_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(config(folder, "first", "second"), capsys, "model.lora={rank: 2}")
    assert "disk: adapters alone for 3 models, and for checkpoints while a stage trains" in lines
