"""The metrics of a stream, by hand; the store, its checksums and its lock."""

from pathlib import Path

import numpy as np
import pytest

from sfa import runs, store
from sfa.stages.results import metrics


def test_metrics_of_three_tasks_by_hand() -> None:
    matrix = np.array([[0.8, 0.1, 0.0], [0.5, 0.9, 0.1], [0.3, 0.7, 0.6]])
    result = metrics(np.array([0.1, 0.2, 0.3]), matrix)
    assert result["average"] == pytest.approx((0.3 + 0.7 + 0.6) / 3)
    assert result["forgetting"] == pytest.approx(((0.8 - 0.3) + (0.9 - 0.7)) / 2)
    assert result["backward_transfer"] == pytest.approx(((0.3 - 0.8) + (0.7 - 0.9)) / 2)
    assert result["forward_transfer"] == pytest.approx(((0.1 - 0.2) + (0.1 - 0.3)) / 2)
    assert result["new_task_score"] == pytest.approx((0.8 + 0.9 + 0.6) / 3)
    assert result["gain_kept"] == pytest.approx(((0.3 - 0.1) + (0.7 - 0.2)) / ((0.8 - 0.1) + (0.9 - 0.2)))


def test_a_task_that_was_best_before_the_stream_is_forgotten_from_there() -> None:
    result = metrics(np.array([0.9, 0.0]), np.array([[0.5, 0.0], [0.4, 1.0]]))
    assert result["forgetting"] == pytest.approx(0.5)
    assert result["backward_transfer"] == pytest.approx(-0.1)


def test_one_task_forgets_nothing() -> None:
    transfers = {"forgetting": 0.0, "backward_transfer": 0.0, "forward_transfer": 0.0}
    assert metrics(np.array([0.0]), np.array([[0.7]])) == {"average": 0.7, **transfers, "new_task_score": 0.7}


def stage(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"weights" * 100)
    made = {"date": "2026-01-01", "hardware": "a computer", "torch": "2.7.0"}
    about = {"fingerprint": "0123456789abcdef", "task": "base", "method": "sequential", "parent": None}
    runs.finish(folder, {**about, "steps": 3, "spec": {}, "made": made})
    return folder


def test_a_finished_stage_verifies(tmp_path: Path) -> None:
    runs.verify(stage(tmp_path))
    manifest = runs.read_manifest(tmp_path)
    assert manifest is not None and manifest["steps"] == 3
    assert manifest["files"]["model/model.safetensors"]["bytes"] == 700


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add"])
def test_a_changed_file_is_named(damage: str, tmp_path: Path) -> None:
    file = stage(tmp_path) / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[350] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        (tmp_path / "model" / "other.safetensors").write_bytes(b"x")
    with pytest.raises(store.DamagedStage, match=r"(model|other)\.safetensors"):
        runs.verify(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    store.write_json(file, {"good": 1})
    with pytest.raises(TypeError):
        store.write_json(file, {"bad": object()})
    assert file.read_text() == '{\n  "good": 1\n}\n'


def test_fingerprints_depend_on_content_and_not_on_order() -> None:
    assert store.fingerprint({"a": 1, "b": [1, 2]}) == store.fingerprint({"b": [1, 2], "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})
