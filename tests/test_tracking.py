"""What trackers receive: a run's scores and merges over the whole stream, whichever of its stages were made before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from composer.loggers import InMemoryLogger

import train
from sfa.config import load, loggers
from tests.small_stream import config, data, results

LONGER = {"max_duration": "4ba", "global_batch_size": 2, "seq_len": 48, "lr": 1e-2, "schedule": "constant"}
COLUMNS = ["stage", "step", "step of the stream", "beta", "l2_before", "l2_after"]


class Kept(InMemoryLogger):
    """Composer's own, with the steps that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        assert step is not None
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step, value))


def tracked(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Kept, dict[str, Any]]:
    kept = Kept()
    monkeypatch.setattr(loggers, "of_run", lambda config, folder: [kept])
    assert train.main([config(folder, "first", "second", eval={"interval": "2ba"}, train=LONGER, **changes)]) == 0
    return kept, results(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data(Path(), "first", "second")
    return tmp_path


def test_curves_and_merges_are_over_the_stream(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, found = tracked(Path(), monkeypatch)
    final = {(row["evaluation"], row["after"]): row["value"] for row in found["evaluations"]}
    curve = kept.points["stream/first_loss/loss"]
    assert [step for step, _ in curve] == [0, 2, 4, 6, 8]
    after = [final["first_loss", stage] for stage in ("base", "first", "second")]
    assert [curve[0][1], curve[2][1], curve[4][1]] == after
    assert kept.points["metrics/average"] == [(8, found["metrics"]["average"])]
    steps = [step for line in kept.points.values() for step, _ in line]
    assert list(kept.points["merge/beta"]) == [(6, 0.5), (8, 0.5)] and max(steps) == 8
    scores, merges = (json.loads(kept.tables[name]) for name in ("scores", "merges"))
    assert scores["columns"] == ["task", "evaluation", "metric", "after base", "after first", "after second"]
    assert [row[:3] for row in scores["data"]] == [["first", "first_loss", "loss"], ["second", "second_loss", "loss"]]
    assert scores["data"][0][3:] == pytest.approx(after)
    assert merges["columns"] == COLUMNS
    assert [row[:4] for row in merges["data"]] == [["second", 2, 6, 0.5], ["second", 4, 8, 0.5]]
    for (*_, before, after), logged in zip(merges["data"], kept.points["merge/l2_after"], strict=True):
        assert after == pytest.approx(before / 2) and after == pytest.approx(logged[1])
    assert kept.hyperparameters["sfa.beta"] == 0.5 and kept.hyperparameters["tasks.1.name"] == "second"
    assert not [key for key in kept.hyperparameters if key.startswith("ewc.")]


def test_a_finished_run_is_tracked_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = tracked(Path(), monkeypatch)
    again, _ = tracked(Path(), monkeypatch)
    assert (again.points, again.tables) == (first.points, first.tables)


def test_a_merge_after_the_training_is_an_event_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, found = tracked(Path(), monkeypatch, method="wise_ft")
    (row,) = json.loads(kept.tables["merges"])["data"]
    assert row[:4] == ["second", 4, 8, None] and row[5] == pytest.approx(found["stages"][1]["l2_from_anchor"])


def test_loggers_do_not_write_into_the_config(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writing(Kept):
        def __init__(self, project: str, group: str, init_kwargs: dict[str, Any]):
            super().__init__()
            init_kwargs["name"] = project

    monkeypatch.setattr(loggers, "_kind", lambda name: Writing)
    monkeypatch.setattr(loggers, "missing", lambda name: None)
    read = load(config(Path(), "first", method="sequential", loggers={"trackio": {"init_kwargs": {}}}))
    assert len(loggers.of_stage(read, here)) == 1 and read.loggers == {"trackio": {"init_kwargs": {}}}


def test_a_file_is_of_a_training_alone(here: Path) -> None:
    read = load(config(Path(), "first", method="sequential", loggers={"file": {}, "tensorboard": {}}))
    assert [type(logger).__name__ for logger in loggers.of_run(read, here)] == ["TensorboardLogger"]


def test_tensorboard_has_one_set_of_events_for_a_run(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = config(Path(), "first", "second", loggers={"tensorboard": {}})
    assert train.main([made]) == train.main([made]) == 0
    events = EventAccumulator("runs/mine/stream/mine").Reload()
    assert [event.step for event in events.Scalars("stream/first_loss/loss")] == [0, 4, 8]


def test_wandb_offline(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    offline = {"wandb": {"init_kwargs": {"mode": "offline"}}}
    assert train.main([config(Path(), "first", "second", loggers=offline)]) == 0
    tables = {file.name.split("_")[0]: json.loads(file.read_text()) for file in Path("wandb").rglob("*.table.json")}
    assert [row[1] for row in tables["scores"]["data"]] == ["first_loss", "second_loss"]
    assert tables["merges"]["columns"] == COLUMNS and len(tables["merges"]["data"]) == 2
    assert results(Path())["config"]["loggers"] == offline


def test_mlflow_in_a_local_database(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", "1")  # which Composer's logger sets
    store = "sqlite:///mlflow.db"
    many = ["loggers.mlflow.tags={" + ", ".join(f"tag{i}: {i}" for i in range(60)) + "}"]  # over 100 hyperparameters
    made = config(Path(), "first", "second", loggers={"mlflow": {"tracking_uri": store}})
    assert train.main([made, *many]) == 0
    client = mlflow.MlflowClient(store)
    found = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("sfa").experiment_id])}
    assert found.keys() == {"mine", "mine-first", "mine-second"}
    whole = found["mine"]
    assert whole.info.status == "FINISHED" and whole.data.tags["run_group"] == "mine"
    history = client.get_metric_history(whole.info.run_id, "stream/first_loss/loss")
    assert [point.step for point in history] == [0, 4, 8] and whole.data.params["sfa.beta"] == "0.5"
    assert {file.path for file in client.list_artifacts(whole.info.run_id)} == {"scores.json", "merges.json"}


def test_trackio_in_a_local_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio", reason="needs the extra trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for module in (trackio, trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", here / "trackio")
    assert train.main([config(Path(), "first", "second", loggers={"trackio": {}})]) == 0
    assert set(SQLiteStorage.get_runs("sfa")) == {"mine", "mine-first", "mine-second"}
    rows = SQLiteStorage.get_logs("sfa", "mine")
    assert [row["step"] for row in rows if "stream/first_loss/loss" in row] == [0, 4, 8]
    (scores,) = [row["scores"] for row in rows if "scores" in row]
    assert [row["evaluation"] for row in scores["_value"]] == ["first_loss", "second_loss"]
