"""One fingerprint, one set of weights: every input of what is kept is changed, and both are compared."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi, constants
from PIL import Image
from safetensors.torch import load as load_weights

import train
from eval.evaluator import Evaluations
from eval.kind import Settings
from sfa import hub
from sfa.config import load
from sfa.data import Custom, Images, registered
from sfa.data.source import SourceError
from sfa.data.text_arrays import content
from sfa.models.settings import Model
from sfa.models.tokenizer_training import train_tokenizer
from sfa.stages import plan, stage

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")
SMALL = ["train.max_duration=3ba", "eval.limit=10", "sfa.every=null", "sfa.p=0.5", "name=run"]


def made(folder: Path, *overrides: str) -> tuple[str, bytes]:
    """The fingerprint of a run's last stage, and its weights."""
    assert train.main([MNIST, *SMALL, f"save_folder={folder}", *overrides]) == 0
    name = next((o.removeprefix("name=") for o in overrides if o.startswith("name=")), "run")
    results = json.loads((folder / name / "results.json").read_text())
    fingerprint = results["stages"][-1]["fingerprint"]
    return fingerprint, (folder / "stages" / fingerprint / "model" / "model.safetensors").read_bytes()


COUNTS = [
    "seed=18", "train.max_duration=4ba", "train.global_batch_size=10", "train.lr=0.02", "train.momentum=0.5",
    "train.weight_decay=0.1", "train.schedule=linear", "train.max_grad_norm=0.1", "train.warmup=1ba",
    "train.optimizer=adamw", "sfa.beta=0.3", "sfa.p=1", "train.precision=amp_bf16", "order=[1,0]", "method=wise_ft",
    "tasks.0.groups=[[0,2,4,6],[1,3,5,7,8,9]]", "model.config.hidden_sizes=[90]", "method=l2", "method=ewc",
    "method=rehearsal rehearsal.fraction=0.5", "sfa.p=0.5 sfa.reset_optimizer_on_merge=true train.momentum=0.9",
    "sfa.merge_at_end=false", "sfa.beta_end=0.9", "sfa.layers.classifier=0.9", "method=lwf", "method=ema",
    "method=bema", "method=der", "sfa.p=null sfa.when.kl=100",
]  # fmt: skip
COUNTS_NOT = [
    "name=other", "eval.limit=20", "eval.interval=1ba", "eval.batch_size=3", "train.save_interval=1ba",
    "sfa.anchor_device=device", "loggers={file: {}}", "l2.strength=5", "train.workers=1", "parallelism=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    return made(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("changed", COUNTS)
def test_what_changes_the_weights_changes_the_fingerprint(
    changed: str, plain: tuple[str, bytes], tmp_path: Path
) -> None:
    fingerprint, weights = made(tmp_path, *changed.split())
    assert weights != plain[1] and fingerprint != plain[0]


@pytest.mark.parametrize("changed", COUNTS_NOT)
def test_what_leaves_the_weights_leaves_the_fingerprint(changed: str, plain: tuple[str, bytes], tmp_path: Path) -> None:
    assert made(tmp_path, changed) == plain


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_a_fused_optimizer_only_rounds_differently(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, used = getattr(torch.optim, kind), []

    class Watched(optimizer):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            used.append(self.defaults["fused"])

    monkeypatch.setattr(torch.optim, kind, Watched)
    options = [f"train.optimizer={kind.lower()}", "train.lr=0.001"]
    plain = made(tmp_path / "plain", *options, "train.fused=false")
    fused = made(tmp_path / "fused", *options, "train.fused=true")
    assert used == [False, False, True, True]
    assert fused[0] == plain[0]
    for name, weights in load_weights(plain[1]).items():
        torch.testing.assert_close(load_weights(fused[1])[name], weights, rtol=1e-4, atol=1e-6)


def pictures(folder: Path, colour: int) -> Path:
    """A data set that names its pictures by their paths."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(24):
        Image.new("L", (28, 28), (colour + 9 * i) % 256).save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "label": i % 2})
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_pictures_that_a_data_set_names_are_part_of_it(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 0)
    task = f"tasks=[{{name: one, source: {folder}, image: image, label: label, classes: 2}}]"
    arguments = [task, "method=sequential", "train.global_batch_size=4"]
    first = made(tmp_path / "runs", *arguments)
    rows = (folder / "train.jsonl").read_bytes()
    pictures(folder, 100)
    assert (folder / "train.jsonl").read_bytes() == rows
    second = made(tmp_path / "runs", *arguments)
    assert first[0] != second[0] and first[1] != second[1]


def same_stamp(file: Path, write: Callable[[Path], Any]) -> None:
    """Replaces a file by one of the same size and time stamp, as ``cp -p`` and rsync do."""
    before = file.stat()
    write(file)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def written(file: Path, answer: str) -> None:
    rows = [{"q": f"what is {i}", "a": answer} for i in range(60)]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_that_is_replaced_with_its_time_stamp_is_another(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"train.{suffix}"
    written(file, "yes")
    options = {"name": "mine", "source": str(tmp_path), "prompt": "{q}", "response": "{a}"}
    task = Custom(**options)
    before, rows = task.data_spec(), task.rows("train")
    same_stamp(file, lambda path: written(path, "nay"))
    assert task.data_spec() != before and {row["response"] for row in task.rows("train")} == {"nay"}
    assert {row["response"] for row in rows} == {"yes"}


def test_rows_of_a_test_are_part_of_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    row = {"question": "q", "answer": "so #### 72"}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    key = Evaluations(["gsm8k"], [], Settings(data_folder=tmp_path)).key("gsm8k")
    evaluations = Evaluations(["gsm8k"], [], Settings(data_folder=tmp_path))
    assert evaluations.key("gsm8k") == key
    same_stamp(folder / "test.jsonl", lambda path: path.write_text(json.dumps({**row, "answer": "so #### 73"}) + "\n"))
    assert Evaluations(["gsm8k"], [], Settings(data_folder=tmp_path)).key("gsm8k") != key
    with pytest.raises(SourceError, match="the rows of gsm8k changed during the run"):
        evaluations.load("gsm8k", None, None)  # it was asked for its key before


def test_data_that_change_while_an_earlier_stage_trains_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pictures(tmp_path / "first", 0), pictures(tmp_path / "second", 0)
    tasks = [f"{{name: {f.name}, source: {f}, image: image, label: label, classes: 2}}" for f in (first, second)]
    overrides = [MNIST, *SMALL, f"tasks=[{', '.join(tasks)}]", "method=sequential", "train.global_batch_size=4"]
    overrides += [f"save_folder={tmp_path / 'runs'}", "eval.tasks=[first_accuracy]"]
    train_stage = stage.train

    def then_change(*arguments: Any) -> Any:
        result = train_stage(*arguments)
        pictures(second, 50)
        return result

    monkeypatch.setattr(stage, "train", then_change)
    assert train.main(overrides) == 1
    assert "second: its data, or the model that the stream starts from, were changed" in capsys.readouterr().err
    manifests = [json.loads(file.read_text())["task"] for file in (tmp_path / "runs").glob("stages/*/manifest.json")]
    assert sorted(manifests) == ["base", "first"]
    monkeypatch.setattr(stage, "train", train_stage)
    assert train.main(overrides) == 0


def test_prepared_rows_are_those_of_their_tokenizer() -> None:
    """With the same vocabulary and another end of text."""
    first = train_tokenizer(400, [registered("arithmetic")])
    other = train_tokenizer(400, [registered("arithmetic")])
    assert content(first) == content(other)
    other.add_special_tokens({"eos_token": "!"})
    assert first.get_vocab() == other.get_vocab() and content(first) != content(other)


def cached(home: Path, commit: str, kind: str = "models") -> None:
    """A repository as the hub's library keeps it, whose main branch is at ``commit``."""
    folder = home / f"{kind}--owner--name"
    (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def test_a_branch_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))

    def base(*overrides: str) -> str:
        hub.commit.cache_clear()
        edited = load(MNIST, []).model_copy(
            update={"model": Model(name="owner/name", revision=(overrides or (None,))[0])}
        )
        monkeypatch.setattr(plan, "splits_matter", lambda config: False)
        return plan.Stream(edited).base.fingerprint

    cached(tmp_path, "a" * 40)
    first = base()
    assert base("main") == base("a" * 40) == first
    cached(tmp_path, "b" * 40)
    assert base() != first and base("a" * 40) == first
    hub.commit.cache_clear()


def test_a_hub_that_cannot_be_reached_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries ask for each of many files, and again after a pause: minutes before a line of a dry run."""
    asked = []

    def refuse(self: HfApi, name: str, **_: object) -> None:
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "repo_info", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.commit.cache_clear()
    assert [hub.commit(f"owner/{name}") for name in "abc"] == [None] * 3
    assert asked == ["owner/a"] and constants.is_offline_mode()
    assert capsys.readouterr().err == "the hub cannot be reached: what was downloaded before is used\n"
    hub.commit.cache_clear()


def test_dropout_makes_the_split_of_a_batch_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart = str(Path(MNIST).parent / "quickstart.yaml")

    def last(*overrides: str) -> str:
        return plan.plan(load(quickstart, overrides))[-1].fingerprint

    assert last() == last("train.microbatch_size=2")
    dropout = "model.config.hidden_dropout=0.1"
    assert last(dropout) != last(dropout, "train.microbatch_size=2") and last(dropout) != last()
    assert last(dropout) == last(dropout, "train.microbatch_size=4")  # all of a batch of 4
    first = last(dropout)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert last(dropout) != first


def test_a_stage_says_with_what_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint, _ = made(tmp_path)
    file = tmp_path / "stages" / fingerprint / "manifest.json"
    manifest = json.loads(file.read_text())
    assert {"torch", "transformers", "pillow"} <= manifest["made"]["versions"].keys()
    manifest["made"]["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(manifest))
    capsys.readouterr()
    made(tmp_path)
    assert "reused stages were made with torch 1.0 (here " in capsys.readouterr().out


def test_images_of_an_evaluation_stay_those_it_began_with(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 0)
    task = Images(name="one", source=str(folder), classes=2)
    accuracy = Evaluations(["one_accuracy"], [task], Settings(cache=tmp_path / "cache", batch_size=4))
    key = accuracy.key("one_accuracy")
    shutil.copy(folder / "1.png", folder / "0.png")
    assert accuracy.key("one_accuracy") == key != accuracy.kinds["one_accuracy"].key("one_accuracy")
