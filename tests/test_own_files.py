"""Data as people have them: one file, shards, a pattern, class labels, folders of pictures."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import train
from eval import available
from sfa.config import ConfigError, load
from sfa.data import Custom, Images
from sfa.data.source import SourceError
from sfa.families import family_of_tasks

ROWS = [{"q": f"what is {i}", "a": f"it is {i}"} for i in range(100)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def custom(source: Path | str, **options: Any) -> Custom:
    return Custom(**{"name": "mine", "source": str(source), "prompt": "{q}", "response": "{a}", **options})


def responses(task: Custom) -> list[str]:
    return sorted(row["response"] for split in ("train", "test") for row in task.rows(split))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "inner.json", "a.csv", "a.parquet"])
def test_a_file_is_a_data_set(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif name == "a.csv":
        file.write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in ROWS))
    else:
        whole = {"a.json": json.dumps(ROWS, indent=1), "inner.json": json.dumps({"version": 1, "data": ROWS})}
        file.write_text(whole.get(name, lines(ROWS)))
    assert responses(custom(file)) == sorted(row["a"] for row in ROWS)


def test_shards_and_a_pattern_are_one_split_each(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"part-{i}.jsonl").write_text(lines(ROWS[25 * i : 25 * i + 25]))
    assert responses(custom(tmp_path)) == responses(custom(tmp_path / "part-*.jsonl")) == sorted(r["a"] for r in ROWS)
    assert len(responses(custom(tmp_path / "part-[01].jsonl"))) == 50
    before = custom(tmp_path).data_spec()
    (tmp_path / "part-3.jsonl").write_text(lines(ROWS[:25]))
    assert custom(tmp_path).data_spec() != before
    (tmp_path / "other.jsonl").write_text(lines(ROWS))
    with pytest.raises(SourceError, match=r"has no train\.parquet, \.jsonl or \.csv, but \['other', 'part-0'"):
        custom(tmp_path).rows("train")


def test_a_file_by_another_path_is_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.jsonl").write_text(lines(ROWS))
    assert custom(tmp_path / "a.jsonl").data_spec() == custom(tmp_path / "b").data_spec()


def test_a_file_that_does_not_exist_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "first.jsonl").write_text(lines(ROWS))
    with pytest.raises(SourceError, match=r"frist\.jsonl does not exist; did you mean .*first\.jsonl\?"):
        custom(tmp_path / "frist.jsonl")
    with pytest.raises(SourceError, match="is no folder of"):
        custom(tmp_path / "*.parquet")


def test_a_share_of_the_rows_is_held_out_if_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines([{"q": f"what is {i}", "a": "it is"} for i in range(1000)]))
    with caplog.at_level(logging.WARNING):
        held_out = custom(file, test_fraction=0.3).rows("test")
    assert 250 < len(held_out) < 350 and f"{len(held_out)} of 1,000 rows are held out" in caplog.text
    assert (
        "test_fraction" not in custom(file).data_spec()
        and "test_fraction" in custom(file, test_fraction=0.3).data_spec()
    )
    (tmp_path / "s").mkdir()
    for split in ("train", "test"):
        (tmp_path / "s" / f"{split}.jsonl").write_text(lines(ROWS))
    with pytest.raises(SourceError, match="has the split test: leave test_fraction out"):
        custom(tmp_path / "s", test_fraction=0.3).rows("train")


@pytest.mark.parametrize("labels", [[0, 1], ["0", "1"], ["World", "Sports"]])
def test_two_keys_make_a_labelled_data_set(labels: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines([{"text": f"t{i}", "topic": labels[i % 2]} for i in range(40)]))
    task = Custom(name="mine", source=str(file), label="topic", choices=["World", "Sports"])
    row = next(row for row in task.rows("train") if row["prompt"] == "t1")
    assert row["response"] == "Sports" and row["choices"] == ["World", "Sports"] and task.evals == ("mine_accuracy",)
    mapped = Custom(name="mine", source=str(file), label="topic", choices={str(labels[0]): "A", str(labels[1]): "B"})
    assert {row["response"] for row in mapped.rows("train")} == {"A", "B"}


def config_errors(tmp_path: Path, task: dict[str, Any]) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"name": "x", "model": {"name": "owner/model"}, "tasks": [task]}))
    with pytest.raises(ConfigError) as caught:
        load(file, [], available)
    return caught.value.errors


def test_what_a_task_lacks_is_an_error_of_the_config(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(lines(ROWS))
    (error,) = config_errors(tmp_path, {"name": "mine", "source": str(source)})
    assert error.startswith(f"tasks.0: {source} has the columns ['q', 'a']: set prompt and response to templates")
    (error,) = config_errors(tmp_path, {"name": "mine", "source": "owner/name"})
    assert error.startswith("tasks.0: owner/name is on the hub: set prompt and response")
    (error,) = config_errors(tmp_path, {"name": "mine", "source": str(source), "label": "a", "prompt": "{q}"})
    assert error.startswith("tasks.0: choices: is required with label")
    errors = config_errors(tmp_path, {"name": "mine", "source": str(source), "promt": "{q}"})
    assert any("unknown key; did you mean prompt?" in error for error in errors)


def pictures(folder: Path, classes: dict[str, int], count: int = 12) -> Path:
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (28, 28), (colour, 7 * i, 0)).save(folder / name / f"{i:02d}.png")
    return folder


def test_a_folder_of_pictures_needs_no_settings(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets" / "train", {"dog": 200, "cat": 100}).parent
    pictures(folder / "test", {"dog": 200, "cat": 100}, 3)
    task = Images(name="pets", source=str(folder))
    assert task.classes == 2 and task.class_names() == ("cat", "dog")
    rows = task.rows("test")
    assert [row["label"] for row in rows] == [0, 0, 0, 1, 1, 1] and len(task.rows("train")) == 24
    before = task.data_spec()
    copy = pictures(tmp_path / "elsewhere" / "train", {"dog": 200, "cat": 100}).parent
    pictures(copy / "test", {"dog": 200, "cat": 100}, 3)
    assert Images(name="pets", source=str(copy)).data_spec() == before
    (copy / "train" / "cat" / "00.png").write_bytes((copy / "train" / "dog" / "00.png").read_bytes())
    assert Images(name="pets", source=str(copy)).data_spec() != before


def test_pictures_without_splits_are_held_out_and_metadata_name_labels(tmp_path: Path) -> None:
    task = Images(name="pets", source=str(pictures(tmp_path / "pets", {"dog": 200, "cat": 100}, 40)))
    assert 0 < len(task.rows("test")) < 25 and len(task.rows("train")) + len(task.rows("test")) == 80
    folder = pictures(tmp_path / "meta" / "train", {"files": 50}, 4).parent
    rows = [{"file_name": f"files/{i:02d}.png", "label": "odd" if i % 2 else "even"} for i in range(4)]
    (folder / "train" / "metadata.jsonl").write_text(lines(rows))
    meta = Images(name="meta", source=str(folder), test_fraction=0.5)
    assert meta.class_names() == ("even", "odd") and len(meta.rows("train")) + len(meta.rows("test")) == 4
    (folder / "train" / "metadata.jsonl").write_text(lines([{"file_name": "../x.png", "label": "odd"}]))
    with pytest.raises(SourceError, match="must name a picture below"):
        Images(name="meta", source=str(folder))


def test_a_model_keeps_the_names_of_the_classes_of_all_tasks(tmp_path: Path) -> None:
    folders = [
        pictures(tmp_path / "pets", {"dog": 200, "cat": 100}),
        pictures(tmp_path / "birds", {"owl": 30, "auk": 60}),
    ]
    file = tmp_path / "c.yaml"
    settings = {"max_duration": "1ba", "global_batch_size": 4, "lr": 0.1}
    mlp = {"image_size": 28, "num_channels": 3, "hidden_sizes": [4]}
    content = {
        "name": "x",
        "model": {"architecture": "mlp", "config": mlp},
        "tasks": [{"name": folder.name, "source": str(folder)} for folder in folders],
        "method": "sfa",
        "sfa": {"p": 1},
        "train": settings,
        "loggers": {},
        "save_folder": str(tmp_path / "runs"),
    }
    file.write_text(json.dumps(content))
    config = load(file, [], available)
    assert [task.model_dump()["names"] for task in config.tasks] == [("auk", "cat", "dog", "owl")] * 2
    assert {row["label"] for row in config.tasks[1].rows("train")} == {0, 3}
    assert family_of_tasks(config.tasks).base_spec() == {"classes": 4, "names": ["auk", "cat", "dog", "owl"]}
    assert train.main([str(file)]) == 0
    for manifest in (tmp_path / "runs" / "stages").glob("*/manifest.json"):
        settings = json.loads((manifest.parent / "model" / "config.json").read_text())
        assert settings["id2label"] == {"0": "auk", "1": "cat", "2": "dog", "3": "owl"}
