"""Data as people have them: one file, shards, a pattern, class labels, folders of pictures."""

import bz2
import gzip
import json
import logging
import lzma
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


FILES = ["a.jsonl", "a.json", "lines.json", "inner.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.bz2", "a.json.xz"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_a_data_set(name: str, tmp_path: Path) -> None:
    file = tmp_path / name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif name.startswith("a.csv"):
        file.write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in ROWS))
    else:
        whole = {"a.json": json.dumps(ROWS, indent=1), "inner.json": json.dumps({"version": 1, "data": ROWS})}
        file.write_text(whole.get(file.name, lines(ROWS)))
    if file.name != name:
        packages: dict[str, Any] = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
        (tmp_path / name).write_bytes(packages[Path(name).suffix].compress(file.read_bytes()))
        file = tmp_path / name
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


def test_compressed_files_are_splits_and_shards_and_damage_is_an_error(tmp_path: Path) -> None:
    for name, part in {"train-00000-of-00002": 0, "train-00001-of-00002": 1, "test": 2}.items():
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[part * 20 : part * 20 + 20]).encode()))
    task = custom(tmp_path)
    assert [len(task.rows("train")), len(task.rows("test"))] == [40, 20]
    (tmp_path / "test.jsonl").write_text(lines(ROWS[90:]))  # what was unpacked is read instead
    assert len(custom(tmp_path).rows("test")) == 10
    whole = gzip.compress(lines(ROWS).encode())
    for content in (whole[:-20], b"text", whole[:30] + b"xxxx" + whole[34:]):
        (tmp_path / "torn.jsonl.gz").write_bytes(content)
        with pytest.raises(SourceError, match=r"torn\.jsonl\.gz cannot be read: "):
            custom(tmp_path / "torn.jsonl.gz").rows("train")


def test_a_shard_with_other_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl").write_text(lines(ROWS))
    (tmp_path / "part-1.jsonl").write_text(lines([{"query": row["q"], "a": row["a"]} for row in ROWS]))
    with pytest.raises(SourceError, match=r"part-1\.jsonl lacks the columns \['q'\]; it has \['query', 'a'\]"):
        custom(tmp_path).rows("train")


def test_what_is_no_data_set_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("q\ta\n")
    with pytest.raises(SourceError, match=r"a\.tsv is no \.parquet, \.jsonl, \.json, \.csv file; convert it"):
        custom(tmp_path / "a.tsv")
    (tmp_path / "whole" / "data").mkdir(parents=True)  # as the hub's files are downloaded
    (tmp_path / "whole" / "README.md").write_text("")
    (tmp_path / "whole" / "data" / "train-00000-of-00001.jsonl").write_text(lines(ROWS))
    with pytest.raises(SourceError, match=r"it holds \['README\.md', 'data'\]; .*whole/data is a folder of data"):
        custom(tmp_path / "whole")


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


def labelled(file: Path, labels: list[Any], choices: Any, names: list[str] | None = None) -> list[str]:
    """The responses of rows with these labels, in order; with ``names``, the file knows the classes' names."""
    rows = [{"text": f"t{i}", "topic": label} for i, label in enumerate(labels)]
    if names is None:
        file.write_text(lines(rows))
    else:
        features = {"topic": {"names": names, "_type": "ClassLabel"}}
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(about), file)
    task = Custom(name="mine", source=str(file), label="topic", choices=choices, train_split="train")
    found = [row for split in ("train", "test") for row in task.rows(split)]  # type: ignore[arg-type]
    return [row["response"] for row in sorted(found, key=lambda row: int(row["prompt"][1:]))]


def test_labels_are_read_in_one_way_only(tmp_path: Path) -> None:
    """A label that is a choice is never taken for the place of one."""
    file = tmp_path / "a.jsonl"
    assert labelled(file, [1, 2, 3], [1, 2, 3]) == ["1", "2", "3"]
    with pytest.raises(SourceError, match=r"the label '0' is not one of mine's choices \(1, 2, 3\)"):
        labelled(file, [0, 1, 2], [1, 2, 3])
    assert labelled(file, [0, 1], ["10", "20"]) == ["10", "20"]
    assert labelled(file, [True, False], {True: "yes", False: "no"}) == ["yes", "no"]
    assert labelled(file, ["True", "False"], {True: "yes", False: "no"}) == ["yes", "no"]
    with pytest.raises(ValueError, match="valid string"):
        labelled(file, ["no", "yes"], [False, True])
    with pytest.raises(SourceError, match=r"the label '0\.5' is not one of mine's choices \(0, 1, no, yes\)"):
        labelled(file, [0.5, 1], ["no", "yes"])


def test_the_classes_names_in_the_data_are_heeded(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    assert labelled(file, [0, 1, 1], ["bad", "good"], ["bad", "good"]) == ["bad", "good", "good"]
    assert labelled(file, [0, 1, 1], {"good": "A", "bad": "B"}, ["bad", "good"]) == ["B", "A", "A"]
    assert labelled(file, [0, 1, 1], ["no", "yes"], ["bad", "good"]) == ["no", "yes", "yes"]
    with pytest.raises(SourceError, match=r"topic numbers the classes \['bad', 'good'\]: list choices in this order"):
        labelled(file, [0, 1], ["good", "bad"], ["bad", "good"])


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
    (error,) = config_errors(tmp_path, {"name": "mine", "source": str(source), "label": "a"})
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


def test_metadata_may_lie_beside_the_pictures_and_name_any_column(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", {"files": 50}, 4)
    rows = [{"file_name": f"files/{i:02d}.png", "breed": "odd" if i % 2 else "even"} for i in range(4)]
    (folder / "metadata.csv").write_text("file_name,breed\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    assert Images(name="pets", source=str(folder), label="breed", test_fraction=0.5).class_names() == ("even", "odd")
    assert config_errors(tmp_path, {"name": "pets", "source": str(folder)}) == [
        f"tasks.0: label: {folder} has no column label with classes: ['image', 'breed']"
    ]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text(lines([{**row, "breed": i} for i, row in enumerate(rows)]))
    numbered = Images(name="pets", source=str(folder), label="breed", test_fraction=0.5)
    assert numbered.classes == 4 and numbered.class_names() == ()


def test_folders_of_classes_may_be_numbers(tmp_path: Path) -> None:
    digits = Images(name="d", source=str(pictures(tmp_path / "d", {"0": 200, "1": 100}, 9)))
    assert digits.classes == 2 and {row["label"] for row in digits.rows("train")} == {0, 1}
    mixed = Images(name="m", source=str(pictures(tmp_path / "m", {"7up": 200, "1": 100}, 9)))
    assert mixed.class_names() == ("1", "7up") and {row["label"] for row in mixed.rows("train")} == {0, 1}


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
