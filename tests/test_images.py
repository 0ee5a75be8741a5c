"""Streams of images: the split by label, what is read, and what is scored."""

import gzip
import io
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTImageProcessor

import train
from eval import available
from eval.evaluator import Evaluations
from eval.kind import Settings
from scripts.export import export
from sfa import merge_steps
from sfa.config import ConfigError, load
from sfa.data import ImageTask, registered
from sfa.data.batches import BatchSchedule, data_spec
from sfa.data.digits import Digits
from sfa.data.glyphs import FACES, LATIN_AND_GREEK, OTHERS, Glyphs, draw
from sfa.data.image_arrays import ImageArrays
from sfa.data.images import Images, decode
from sfa.data.source import SourceError
from sfa.families.image_classifier import ImageClassifier
from sfa.methods import METHODS
from sfa.mlp import MLPConfig, MLPForImageClassification
from sfa.models.building import build
from sfa.models.settings import Model
from sfa.models.stored import read_model, read_processor
from sfa.store import DamagedStage
from tests import COMPOSER

YAMLS = Path(train.__file__).parent / "yamls"
MNIST = str(YAMLS / "mnist.yaml")
PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def stream(*overrides: str) -> list[ImageTask]:
    tasks = load(YAMLS / "food101_vit.yaml", overrides).tasks
    assert all(isinstance(task, ImageTask) for task in tasks)
    return tasks  # type: ignore[return-value]


def test_the_papers_split_has_every_label_but_one_in_exactly_one_task() -> None:
    tasks = stream()
    assert len(tasks) == 20 and {len(task.own_labels()) for task in tasks} == {5}
    labels = [label for task in tasks for label in task.own_labels()]
    assert labels == list(range(100)) and {task.classes for task in tasks} == {101}
    assert [task.name for task in tasks][:2] == ["food101_01", "food101_02"]
    assert tasks[1].evals == ("food101_02_accuracy",)


def test_grouping_and_order_are_seeded_or_listed() -> None:
    def groups(*overrides: str) -> list[tuple[int, ...]]:
        return [task.own_labels() for task in stream(*overrides)]

    shuffled = groups("tasks.0.shuffle=3")
    assert shuffled == groups("tasks.0.shuffle=3") != groups("tasks.0.shuffle=4")
    assert len({label for group in shuffled for label in group}) == 100
    ordered = groups("tasks.0.order=5")
    assert ordered != groups() and sorted(ordered) == groups()
    listed = ["tasks.0.into=null", "tasks.0.per_task=null", "tasks.0.groups=[[3,1],[2,7,9]]"]
    assert groups(*listed) == [(3, 1), (2, 7, 9)]
    assert groups(*listed, "tasks.0.order=[1,0]") == [(2, 7, 9), (3, 1)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.0.per_task=6", "20 tasks of 6 labels need more than the 101 there are"),
        ("tasks.0.groups=[[1],[1]]", "give either into"),
        ("tasks.0.order=[0,0]", "order: must hold each of 0 … 19 once"),
        ("tasks.0.classes=null", "classes: must be a number from 2 to 1,000,000, not None"),
        ("tasks.0.labl=x", "labl: unknown key; did you mean label?"),
        ("train.max_duration=100tok", "images are trained for epochs or batches"),
        ("eval.tasks=[food101_01_acuracy]", "did you mean food101_01_accuracy?"),
    ],
)
def test_a_wrong_split_is_reported(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(YAMLS / "food101_vit.yaml", [override], available)
    assert message in str(caught.value)


def test_images_and_text_cannot_be_mixed() -> None:
    with pytest.raises(ConfigError, match="images and text cannot be in one stream"):
        load(MNIST, ["tasks=[digits, arithmetic]"])


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((12, 10, 3), value, np.uint8))


def encoded(value: int) -> bytes:
    stream = io.BytesIO()
    picture(value).save(stream, "PNG")
    return stream.getvalue()


def folder(path: Path, feature: bool, broken: bool = False) -> Path:
    """40 pictures of 4 labels to train on and 8 to test, as the hub's parquet has them; picture 5 may be broken."""
    path.mkdir(parents=True)
    for split, n in (("train", 40), ("test", 8)):
        images: list[Any] = [{"bytes": encoded(i), "path": f"{split}/{i}.png"} for i in range(n)]
        if broken and split == "train":
            images[5]["bytes"] = images[5]["bytes"][:20]
        data = datasets.Dataset.from_dict({"picture": images, "kind": [i % 4 for i in range(n)]})
        if feature:
            data = data.cast_column("picture", datasets.Image(decode=False)).cast_column("picture", datasets.Image())
        data.to_parquet(str(path / f"{split}.parquet"))
    return path


def images(source: Path, **options: Any) -> Images:
    return Images(name="mine", source=str(source), image="picture", label="kind", classes=4, **options)


@pytest.mark.parametrize("feature", [True, False])
def test_any_data_set_with_a_label_column_is_read_and_only_its_own_labels(tmp_path: Path, feature: bool) -> None:
    task = images(folder(tmp_path / "data", feature), labels=(1, 3))
    packed, skipped = ImageArrays(PROCESSOR).split(task, "train", tmp_path / "cache")
    assert set(packed["labels"]) == {1, 3} and len(packed["labels"]) == 20 and skipped == 0
    assert packed["pixel_values"].shape == (20, 3, 8, 8) and packed["pixel_values"].dtype == np.uint8
    assert packed["pixel_values"][:, 0, 0, 0].tolist() == [i for i in range(40) if i % 4 in (1, 3)]
    test, _ = ImageArrays(PROCESSOR).split(task, "test", tmp_path / "cache")
    assert test["labels"].tolist() == [1, 3, 1, 3]
    limited, _ = ImageArrays(PROCESSOR).split(images(tmp_path / "data", limit=7), "train", tmp_path / "cache")
    assert len(limited["labels"]) == 7


def test_a_label_column_that_holds_something_else_is_reported(tmp_path: Path) -> None:
    folder(tmp_path / "data", True)
    task = Images(name="m", source=str(tmp_path / "data"), image="picture", label="kind", classes=3)
    with pytest.raises(SourceError, match="kind must hold whole numbers from 0 to 2"):
        task.rows("train")


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    source = folder(tmp_path / "data", True, broken=True)
    with pytest.raises(SourceError, match=r"train/5.png \(row 5\) is not a readable image.*skip_unreadable"):
        ImageArrays(PROCESSOR).split(images(source), "train", tmp_path / "cache")
    packed, skipped = ImageArrays(PROCESSOR).split(images(source, skip_unreadable=True), "train", tmp_path / "cache")
    assert skipped == 1 and 5 not in packed["pixel_values"][:, 0, 0, 0] and len(packed["labels"]) == 39
    with pytest.raises(OSError, match=r"gone\.png"):
        decode(str(tmp_path / "gone.png"), 3)


def test_grey_and_coloured_images_get_the_channels_that_the_model_takes() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode(grey, 1), grey[None])
    assert np.array_equal(decode(Image.fromarray(grey), 3), np.stack([grey] * 3))
    assert decode(encoded(9), 3).shape == (3, 12, 10)


def test_idx_files_are_read_and_distinguished_from_others(tmp_path: Path) -> None:
    pixels = np.arange(3 * 28 * 28, dtype=np.int64).astype(np.uint8).reshape(3, 28, 28)
    for prefix in ("train", "t10k"):
        content = b"\0\0\x08\x03" + struct.pack(">III", 3, 28, 28) + pixels.tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes([7, 2, 7])
        )
    rows = Digits(source=str(tmp_path), labels=(7,)).rows("test")
    assert [row["label"] for row in rows] == [7, 7] and np.array_equal(rows[1]["image"], pixels[2])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 4) + bytes([7, 2, 7]))
    with pytest.raises(SourceError, match="train-labels-idx1-ubyte is not a complete IDX file"):
        Digits(source=str(tmp_path)).rows("train")


def test_the_embedded_digits_are_held_out_once() -> None:
    task = registered("digits")
    train_rows, test_rows = task.rows("train"), task.rows("test")
    assert len(train_rows) + len(test_rows) == 5000 and 900 < len(test_rows) < 1100
    assert not {row["image"].tobytes() for row in train_rows} & {row["image"].tobytes() for row in test_rows}


def test_glyphs_of_a_held_out_face_are_never_trained_on() -> None:
    assert len(LATIN_AND_GREEK) == 100 == len(set(LATIN_AND_GREEK)) and not set(LATIN_AND_GREEK) & set(OTHERS)
    assert not set(FACES["train"]) & set(FACES["test"]) and len(FACES["train"]) == 12
    task = registered("glyphs", labels=[10, 99], drawings=3)
    for split, faces in FACES.items():
        drawn = [(row["label"], row["image"].tobytes()) for row in task.rows(split)]  # type: ignore[arg-type]
        expected = [
            (n, draw(LATIN_AND_GREEK[n], face, k).tobytes()) for n in (10, 99) for face in faces for k in range(3)
        ]
        assert drawn == expected
    assert (
        draw("A", "DejaVuSans", 0).max() == 255
        and draw("A", "DejaVuSans", 0).tobytes() != draw("A", "DejaVuSans", 1).tobytes()
    )


def test_accuracy_is_counted_over_all_labels_and_a_task_s_own_images(tmp_path: Path) -> None:
    tasks = [
        Glyphs(name="a", labels=(1, 2, 3), drawings=4),
        Glyphs(name="b", labels=(40,), drawings=4),
    ]
    model, processor = build(
        Model(architecture="mlp", config={"image_size": 32, "hidden_sizes": [20]}), 3, ImageClassifier(100)
    )
    names = ["a_accuracy", "b_accuracy"]
    scores = Evaluations(names, tasks, Settings(cache=tmp_path, batch_size=7))(model, processor)
    for score, task in zip(scores, tasks, strict=True):
        right = 0
        for row in task.rows("test"):
            pixels = torch.tensor(row["image"]).float().view(1, 1, 32, 32) / 255
            right += int(model((pixels - 0.5) / 0.5).logits.argmax()) == row["label"]
        n = len(task.rows("test"))
        assert (score["n"], score["value"]) == (n, pytest.approx(right / n))
    biased = MLPForImageClassification(MLPConfig(image_size=32, hidden_sizes=(4,), num_labels=100))
    with torch.no_grad():
        biased.classifier.bias[2] = 1e6  # always answers 2: a third of a's images, none of b's
    values = {
        s["evaluation"]: s["value"]
        for s in Evaluations(names, tasks, Settings(cache=tmp_path, batch_size=7))(biased, processor)
    }
    assert values == {"a_accuracy": pytest.approx(1 / 3), "b_accuracy": 0.0}
    limited = Evaluations(names, tasks, Settings(cache=tmp_path, limit=5, batch_size=7))(biased, processor)
    assert [score["n"] for score in limited] == [5, 5]


def test_augmentation_depends_on_the_position_alone_and_workers_change_nothing(tmp_path: Path) -> None:
    from sfa.data.augment import Augment

    packed, _ = ImageArrays(PROCESSOR).split(images(folder(tmp_path / "d", True)), "train", tmp_path / "cache")
    noisy = {
        **packed,
        "pixel_values": np.random.default_rng(0).integers(0, 256, packed["pixel_values"].shape, np.uint8),
    }
    steps = BatchSchedule([noisy], 4, 8, 1, transform=Augment(5))
    assert torch.equal(steps[3]["pixel_values"], steps[3]["pixel_values"])
    plain = BatchSchedule([noisy], 4, 8, 1)
    assert sum(torch.equal(steps[i]["pixel_values"], plain[i]["pixel_values"]) for i in range(32)) < 8
    first = BatchSchedule([packed], 4, 8, 1, transform=Augment(5))
    in_process, helped = (list(data_spec(first, 8, workers).dataloader) for workers in (0, 2))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(in_process, helped, strict=True) for key in a)


VIT = {"image_size": 32, "patch_size": 16, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1}
VIT |= {"num_attention_heads": 2, "intermediate_size": 16}


OF_IMAGES = sorted(name for name, method in METHODS.items() if "images" in method.rows)


@pytest.fixture(scope="module")
def glyph_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every method for images ran once on a stream of three tasks and a ViT with random weights."""
    folder = tmp_path_factory.mktemp("glyphs")
    overrides = [
        "model.name=null",
        "model.architecture=vit",
        f"model.config={json.dumps(VIT)}",
        "tasks.0.groups=[[0,1],[2,3],[4]]",
    ]
    overrides += ["tasks.0.into=null", "tasks.0.drawings=1", "train.max_duration=6ba", "train.global_batch_size=4"]
    overrides += ["ewc.examples=4", "fisher.examples=4", "eval.interval=3ba", "sfa.p=0.5"]
    for method in OF_IMAGES:
        arguments = [*overrides, f"save_folder={folder}", f"method={method}", f"name={method}"]
        assert train.main([str(YAMLS / "glyphs.yaml"), *arguments]) == 0
    return folder


def test_every_method_runs_on_a_stream_of_images(glyph_runs: Path) -> None:
    ends = {}
    for method in OF_IMAGES:
        results = json.loads((glyph_runs / method / "results.json").read_text())
        ends[method] = results["stages"][-1]["fingerprint"]
        assert {row["evaluation"] for row in results["evaluations"]} == {f"glyphs_{k}_accuracy" for k in (1, 2, 3)}
        if method == "sfa":
            assert [stage["merge_steps"] for stage in results["stages"]] == [[], *[merge_steps(6, 0.5)] * 2]
    assert len(set(ends.values())) == len(OF_IMAGES)


def test_while_a_task_trains_only_those_seen_so_far_are_scored(glyph_runs: Path) -> None:
    stages = json.loads((glyph_runs / "sequential" / "results.json").read_text())["stages"]
    for seen, stage in enumerate(stages, 1):
        rows = json.loads((glyph_runs / "stages" / stage["fingerprint"] / "evaluations.json").read_text())
        during = [row["evaluation"] for row in rows if row["step"] == 3]
        assert during == [f"glyphs_{k}_accuracy" for k in range(1, seen + 1)]
        assert len([row for row in rows if row["final"]]) == 3


def test_a_pretrained_classifier_gets_a_new_head_and_keeps_the_rest(glyph_runs: Path, tmp_path: Path) -> None:
    stage = json.loads((glyph_runs / "sequential" / "results.json").read_text())["stages"][-1]["fingerprint"]
    source = glyph_runs / "stages" / stage / "model"
    first, second = (build(Model(name=str(source)), seed, ImageClassifier(7))[0].state_dict() for seed in (1, 2))
    old = read_model(source).state_dict()
    heads = [name for name in first if name.startswith("classifier")]
    assert first["classifier.weight"].shape == (7, 16) and not torch.equal(
        first["classifier.weight"], second["classifier.weight"]
    )
    assert heads and all(torch.equal(first[name], old[name]) for name in first if name not in heads)
    assert read_processor(source).size["height"] == 32


def test_two_ranks_make_the_same_of_images_as_one(tmp_path: Path) -> None:
    """SFA with SGD, whose steps show every wrong scale of a gradient."""
    overrides = ["train.max_duration=12ba", "sfa.every=5ba", f"save_folder={tmp_path}"]
    assert train.main([MNIST, *overrides, "name=one"]) == 0
    command = [COMPOSER, "-n", "2", "train.py", MNIST, *overrides, "parallelism=fsdp2", "name=two"]
    # Stages do not depend on the number of ranks, so those of the first run are put out of the way.
    stage = json.loads((tmp_path / "one" / "results.json").read_text())["stages"][1]["fingerprint"]
    single = load_file(tmp_path / "stages" / stage / "model" / "model.safetensors")
    (tmp_path / "stages").rename(tmp_path / "before")
    ended = subprocess.run(command, cwd=YAMLS.parent, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    both = load_file(tmp_path / "stages" / stage / "model" / "model.safetensors")
    for name, tensor in single.items():
        torch.testing.assert_close(both[name], tensor, rtol=0, atol=1e-6)
    rows = [json.loads((tmp_path / name / "results.json").read_text())["evaluations"] for name in ("one", "two")]
    assert rows[0] == [{**b, "value": pytest.approx(b["value"]), "stderr": pytest.approx(b["stderr"])} for b in rows[1]]


def test_a_run_s_last_model_is_exported_and_a_damaged_one_is_not(glyph_runs: Path, tmp_path: Path) -> None:
    export(glyph_runs / "sfa", tmp_path / "models" / "mine")
    stage = json.loads((glyph_runs / "sfa" / "results.json").read_text())["stages"][-1]["fingerprint"]
    model = glyph_runs / "stages" / stage / "model"
    files = {f.name for f in (tmp_path / "models" / "mine").iterdir()}
    assert files == {f.name for f in model.iterdir()} | {"README.md"}  # the model's card
    copied = load_file(tmp_path / "models" / "mine" / "model.safetensors")
    assert all(torch.equal(copied[name], tensor) for name, tensor in load_file(model / "model.safetensors").items())
    shutil.copytree(glyph_runs / "sfa", tmp_path / "runs" / "sfa")
    shutil.copytree(model.parent, tmp_path / "runs" / "stages" / stage)
    (tmp_path / "runs" / "stages" / stage / "model" / "config.json").write_text("{}")
    with pytest.raises(DamagedStage):
        export(tmp_path / "runs" / "sfa", tmp_path / "models" / "mine")
    assert load_file(tmp_path / "models" / "mine" / "model.safetensors").keys() == copied.keys()
