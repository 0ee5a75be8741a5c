"""Files that were cut short or changed are noticed before they are used, and named; a folder that cannot be written to,
or has too little room, is an error that leaves what is there."""

import collections
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from scripts import report, sweep
from sfa import runs, store
from sfa.data.array_cache import built_once
from sfa.families.decoder import Decoder
from sfa.families.image_classifier import ImageClassifier
from sfa.models.building import build
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from sfa.stages.callbacks import Stopper
from sfa.store import DamagedStage, verify_checksums, write_checksums

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")
SMALL = ["train.max_duration=4ba", "eval.limit=20", "name=run", "ewc.examples=4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert train.main([MNIST, *SMALL, "method=ewc", f"save_folder={folder}"]) == 0
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def of_task(folder: Path, task: str) -> Path:
    folders = [f.parent for f in folder.glob("stages/*/manifest.json") if json.loads(f.read_text())["task"] == task]
    return folders[0]


FILES: dict[str, Callable[[Path], Path]] = {
    "model": lambda folder: of_task(folder, "even") / "model" / "model.safetensors",
    "settings of a model": lambda folder: of_task(folder, "even") / "model" / "config.json",
    "data": lambda folder: next(folder.glob("data/odd-train-*/pixel_values.npy")),
    "Fisher information": lambda folder: next(folder.glob("stages/*/fisher-*/model.safetensors")),
}


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("what", FILES)
def test_a_damaged_file_is_named_and_not_used(
    what: str, damage: Callable[[Path], None], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last stage is made again from the damaged file."""
    shutil.copytree(made, tmp_path / "runs")
    shutil.rmtree(of_task(tmp_path / "runs", "odd"))
    victim = FILES[what](tmp_path / "runs")
    damage(victim)
    assert train.main([MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]) == 1
    assert str(victim) in capsys.readouterr().err
    finished = [json.loads(f.read_text())["task"] for f in (tmp_path / "runs").glob("stages/*/manifest.json")]
    assert sorted(finished) == ["base", "even"]


@pytest.mark.parametrize("name", ["manifest.json", "evaluations.json"])
def test_a_torn_record_of_a_stage_is_named(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "runs")
    victim = of_task(tmp_path / "runs", "even") / name
    cut(victim)
    assert train.main([MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]) == 1
    assert f"{victim} is torn or damaged" in capsys.readouterr().err


def test_a_manifest_does_not_lead_out_of_its_stage(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "runs")
    stage = of_task(tmp_path / "runs", "even")
    (tmp_path / "outside").write_bytes((stage / "model" / "config.json").read_bytes())
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest["files"]["../../../outside"] = manifest["files"].pop("model/config.json")
    (stage / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedStage, match="missing or unknown files"):
        runs.verify(stage)


def test_torn_results_are_written_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made, tmp_path / "runs")
    victim = tmp_path / "runs" / "run" / "results.json"
    before = json.loads(victim.read_text())
    cut(victim)
    assert train.main([MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]) == 0
    assert "was torn or damaged and is written again" in capsys.readouterr().out
    after = json.loads(victim.read_text())
    assert after.pop("arguments")[:-1] == before.pop("arguments")[:-1]  # the last is the folder
    before["config"].pop("save_folder")
    after["config"].pop("save_folder")
    assert after == before


def test_a_seal_notices_what_is_missing_or_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    with pytest.raises(DamagedStage, match="contains no checksums"):
        verify_checksums(tmp_path)
    write_checksums(tmp_path)
    assert verify_checksums(tmp_path) == tmp_path
    (tmp_path / "a").unlink()
    with pytest.raises(DamagedStage, match="a is not the file"):
        verify_checksums(tmp_path)


def test_too_little_room_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(2**30, 2**30 - 2**20, 2**20))
    assert train.main([MNIST, *SMALL, f"save_folder={tmp_path / 'runs'}"]) == 1
    assert "has 1.0 MiB free" in (output := capsys.readouterr().err) and "3 models" in output
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    store.write_json(file, {"good": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_json(file, {"good": 2})
    assert json.loads(file.read_text()) == {"good": 1}


def test_weights_are_never_unpickled_and_code_never_run(tmp_path: Path, made: Path) -> None:
    """A model with a pickle for weights, and one that brings Python files."""
    proof = tmp_path / "proof"
    pickled = tmp_path / "pickled"
    shutil.copytree(of_task(made, "even") / "model", pickled)
    (pickled / "model.safetensors").unlink()
    code = f"import pathlib; pathlib.Path({str(proof)!r}).touch()"
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR.")
    with pytest.raises(ModelError, match="cannot be used"):
        build(Model(name=str(pickled)), 1, ImageClassifier(10))
    coded = tmp_path / "coded"
    coded.mkdir()
    (coded / "theirs.py").write_text(f"{code}\nfrom transformers import PretrainedConfig as C\n")
    auto = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.C"}
    (coded / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": auto}))
    with pytest.raises(ModelError, match="cannot be used"):
        build(Model(name=str(coded)), 1, Decoder())
    assert not proof.exists()


def test_no_secret_of_the_environment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not into a log, a result, a manifest, a model, a checkpoint or the report."""
    secret = "canary-8f31c2"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, secret)
    (tmp_path / "small.yaml").write_text(f"config: {MNIST}\nruns: [{{method: sfa}}]\n")
    arguments = [
        "loggers={file: {}, tensorboard: {}}",
        "train.max_duration=4ba",
        "eval.limit=20",
        f"save_folder={tmp_path}",
    ]
    assert sweep.main([str(tmp_path / "small.yaml"), *arguments]) == 0
    assert report.main([str(tmp_path / "small.json"), "--out", str(tmp_path / "report.html")]) == 0
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 20
    assert [file for file in written if secret.encode() in file.read_bytes()] == []
    output = capsys.readouterr()
    assert secret not in output.out + output.err


def test_data_that_two_processes_want_at_once_are_prepared_once(tmp_path: Path) -> None:
    """Threads, which have locks of their own as processes do."""
    made, read = [], []

    def want() -> None:
        with built_once(tmp_path / "cache" / "odd") as temporary:
            if temporary is not None:
                made.append(temporary)
                time.sleep(0.2)
                (temporary / "data").write_text("whole")
        read.append((verify_checksums(tmp_path / "cache" / "odd") / "data").read_text())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and read == ["whole"] * 4


@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", '{"files": null}', '{"files": {"a": 1}}'])
def test_a_manifest_of_something_else_is_named(
    content: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is then done as it says, and the same command works."""
    shutil.copytree(made, tmp_path / "runs")
    stage = of_task(tmp_path / "runs", "even")
    (stage / "manifest.json").write_text(content)
    arguments = [MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]
    assert train.main(arguments) == 1
    output = capsys.readouterr().err
    assert str(stage / "manifest.json") in output and "Delete its folder to make it again" in output
    shutil.rmtree(stage)
    assert train.main(arguments) == 0


@pytest.mark.parametrize("key", ["fingerprint", "steps", "seconds", "made", "l2_from_anchor"])
def test_a_manifest_without_a_key_is_named(
    key: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "runs")
    file = of_task(tmp_path / "runs", "even") / "manifest.json"
    content = json.loads(file.read_text())
    content.pop(key)
    file.write_text(json.dumps(content))
    assert train.main([MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]) == 1
    assert f"{file} lacks {key}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "{}", "[1]", '[{"step": 1}]', "[{"])
def test_scores_of_something_else_are_named(
    content: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "runs")
    file = of_task(tmp_path / "runs", "even") / "evaluations.json"
    file.write_text(content)
    arguments = [MNIST, *SMALL, "method=ewc", f"save_folder={tmp_path / 'runs'}"]
    assert train.main(arguments) == 1
    output = capsys.readouterr().err
    assert str(file) in output and "Delete it to score the model again" in output
    file.unlink()
    assert train.main(arguments) == 0


def test_a_stage_that_is_made_again_serves_the_checkpoint_of_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task one's folder is deleted while task two is half done; the hash of the anchor is that of its weights."""
    folder = tmp_path / "runs"
    arguments = [MNIST, *SMALL, "method=ewc", f"save_folder={folder}", "train.save_interval=1ba"]
    with monkeypatch.context() as patch:
        stop = lambda self, state, logger: setattr(  # noqa: E731
            self, "requested", bool(list(folder.glob("stages/*/fisher-*"))) and state.timestamp.batch >= 2
        )
        patch.setattr(Stopper, "batch_end", stop)
        assert train.main(arguments) == 130
    assert list(folder.glob("stages/*/checkpoints/*"))
    shutil.rmtree(of_task(folder, "even"))
    assert train.main(arguments) == 0
    for task in ("even", "odd"):
        whole, again = (of_task(runs, task) / "model" / "model.safetensors" for runs in (made, folder))
        assert whole.read_bytes() == again.read_bytes()
