"""A run that is continued trains only its new task, as the whole stream would, even if earlier data are gone."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from eval import available
from sfa.config import ConfigError, load
from sfa.stages.plan import plan
from tests.small_stream import config, data, results, task


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a stream of two files was trained."""
    place = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(place):
        data(Path(), "first", "second", "third")
        assert train.main([config(Path(), "first", "second")]) == 0
    return place


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path()


def made(folder: Path) -> set[str]:
    return {file.parent.name for file in (folder / "runs" / "stages").glob("*/manifest.json")}


def scores(results: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["after"], row["evaluation"]): row["value"] for row in results["evaluations"]}


def test_only_the_new_task_is_trained_and_what_can_be_is_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, first = made(folder), results(folder)
    whole = plan(load(config(folder, "first", "second", "third"), [], available))
    (folder / "first.jsonl").unlink()
    run = folder / "runs" / "mine"
    everything = config(folder, "first", "second", "third", name="longer")
    with pytest.raises(ConfigError) as caught:
        load(everything, ["name=mine"], available)
    assert (
        caught.value.errors[-1] == f"from_run: {run} is finished; from_run={run} keeps its stages and trains only "
        "tasks that it lacks"
    )
    assert train.main([everything, "--from", str(run)]) == 0
    longer = results(folder, "longer")
    assert [stage["task"] for stage in longer["stages"]] == ["first", "second", "third"]
    assert [stage["fingerprint"] for stage in longer["stages"]] == [stage.fingerprint for stage in whole[1:]]
    assert made(folder) - before == {whole[-1].fingerprint}
    found, known = scores(longer), scores(first)
    assert found.items() >= known.items()
    assert {name for after, name in found if after == "third"} == {"second_loss", "third_loss"}
    assert ("base", "third_loss") in found and ("third", "first_loss") not in found and longer["metrics"] is None
    assert [task["name"] for task in longer["config"]["tasks"]] == ["first", "second", "third"]
    assert "third   –  " in capsys.readouterr().out
    shutil.rmtree("tiny")
    only = config(folder, "third", name="longer", model=None)  # without the tasks and the model that the run has
    assert train.main([only, f"from_run={run}"]) == 0
    assert results(folder, "longer")["stages"] == longer["stages"]


def test_with_its_data_it_is_the_run_of_the_whole_stream(folder: Path) -> None:
    assert train.main([config(folder, "third", name="longer"), "--from", str(folder / "runs" / "mine")]) == 0
    longer = results(folder, "longer")
    assert train.main([config(folder, "first", "second", "third", name="whole")]) == 0
    whole = results(folder, "whole")
    assert longer["stages"] == whole["stages"] and scores(longer) == scores(whole)
    assert longer["metrics"] == whole["metrics"]


def test_what_cannot_be_continued_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs" / "mine"

    def errors(*overrides: str, names: tuple[str, ...] = ("third",)) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(config(folder, *names), [f"from_run={run}", *overrides], available)
        return caught.value.errors

    assert errors(names=("first",)) == [f"tasks: must list a task that {run} was not trained on: first, second"]
    assert errors("method=multitask")[0].startswith("from_run: multitask trains on all tasks anew")
    assert errors("method=rehearsal")[0].startswith("from_run: rehearsal needs data of past tasks")
    assert errors(f"save_folder={folder}")[0].startswith(f"from_run: {run} must be in save_folder, {folder}")
    assert errors("model.lora={rank: 2}")[0].startswith(f"model.lora: {run} trains whole weights")
    assert errors("model.template=chat")[0].startswith(f"model.template: is plain in {run}")
    assert errors("from_run=runs/none")[0] == "from_run: runs/none was not found: name the folder of a run"
    shutil.rmtree(folder / "runs" / "stages" / results(folder)["stages"][0]["fingerprint"])
    assert train.main([config(folder, "third"), f"from_run={run}"]) == 2
    assert "a stage of" in capsys.readouterr().err


def test_a_method_acts_on_the_first_new_task(folder: Path) -> None:
    (folder / "first.jsonl").unlink()
    config_file = config(folder, "third", name="other", tasks=[task(folder, "third")])
    assert train.main([config_file, f"from_run={folder / 'runs' / 'mine'}", "method=wise_ft"]) == 0
    other = results(folder, "other")
    assert [stage["method"] for stage in other["stages"]] == ["sequential", "sfa", "wise_ft"]
    manifest = folder / "runs" / "stages" / other["stages"][-1]["fingerprint"] / "manifest.json"
    assert json.loads(manifest.read_text())["parent"] == other["stages"][1]["fingerprint"]


def test_a_model_that_was_moved_is_the_same_model(folder: Path) -> None:
    before = plan(load(config(folder, "first", "second"), [], available))
    shutil.move("tiny", "moved")
    moved = load(config(folder, "first", "second", model={"name": "moved"}), [], available)
    assert [stage.fingerprint for stage in plan(moved)] == [stage.fingerprint for stage in before]
    Path("moved/README.md").write_text("<!-- written by sfa --> a card")
    assert [stage.fingerprint for stage in plan(moved)] == [stage.fingerprint for stage in before]
    Path("moved/README.md").write_text("another file")
    assert plan(moved)[0].fingerprint != before[0].fingerprint
    elsewhere = moved.model_copy(update={"save_folder": Path("other")})
    assert plan(elsewhere)[0].fingerprint != before[0].fingerprint  # a path is part of it where nothing was made
