"""What is in ``runs/`` is read through one owner, also as an earlier release wrote it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from scripts import compare, evaluate, export, summary
from sfa import curves, runs
from sfa.errors import UsageError
from sfa.stages.callbacks import Recorder
from sfa.stages.results import is_loss
from tests.test_commands import kept_run

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")
SMALL = ["train.max_duration=4ba", "eval.limit=20", "eval.interval=2ba", "name=run"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert train.main([MNIST, *SMALL, f"save_folder={folder}"]) == 0
    return folder


def as_schema_1(row: dict[str, Any]) -> dict[str, Any]:
    """A score as the release before wrote it."""
    renamed = {"task" if key == "evaluation" else key: value for key, value in row.items()}
    return {key: value for key, value in renamed.items() if key != "lower_is_better"}


def rewrite(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def test_results_say_their_schema_and_name_evaluations(made: Path) -> None:
    content = json.loads((made / "run" / "results.json").read_text())
    assert content["schema"] == 2
    assert {row["evaluation"] for row in content["evaluations"]} == {"even_accuracy", "odd_accuracy"}
    assert not any("task" in row for row in content["evaluations"])


def test_results_of_schema_1_are_read_alike(made: Path, tmp_path: Path) -> None:
    old = shutil.copytree(made, tmp_path / "runs") / "run"

    def change(results: dict[str, Any]) -> dict[str, Any]:
        rows = [as_schema_1(row) for row in results["evaluations"]]
        return {**{key: value for key, value in results.items() if key != "schema"}, "evaluations": rows}

    rewrite(old / "results.json", change)
    for file in old.parent.glob("stages/*/evaluations.json"):
        rewrite(file, lambda rows: [as_schema_1(row) for row in rows])
    before, after = runs.read_results(old), runs.read_results(made / "run")
    assert before["evaluations"] == after["evaluations"]
    assert compare.compare([before]) == compare.compare([after])
    assert summary.table([("x", before)]) == summary.table([("x", after)])
    assert curves.curves(old) == curves.curves(made / "run")


def test_a_loss_of_schema_1_is_better_if_it_is_lower(tmp_path: Path) -> None:
    run = kept_run(tmp_path)
    rewrite(run / "results.json", lambda f: {**f, "evaluations": [as_schema_1(row) for row in f["evaluations"]]})
    assert is_loss(runs.read_results(run))


def test_a_run_without_evaluations_ends_well_and_has_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([MNIST, *SMALL, "eval.tasks=[]", f"save_folder={tmp_path}"]) == 0
    assert f"{tmp_path / 'run' / 'results.json'}, without scores, as eval.tasks is empty" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"results.json", "README.md"}
    assert "## Scores" not in (tmp_path / "run" / "README.md").read_text()
    assert export.main([str(tmp_path / "run"), str(tmp_path / "model")]) == 0
    assert compare.main([str(tmp_path / "run")]) == 2
    assert "has no scores: its eval.tasks is empty; sfa evaluate scores its models" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "run"), "--tasks", "odd_accuracy", "--limit", "5"]) == 0


def test_results_of_a_later_release_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"results\.json has schema 3, and this release reads up to 2"):
        runs.read_results(kept_run(tmp_path, schema=3))


def test_scores_that_an_earlier_release_kept_are_not_taken_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(made, tmp_path / "runs")
    for file in folder.glob("stages/*/evaluations.json"):
        rewrite(file, lambda rows: [as_schema_1(row) for row in rows])

    def score(*_: Any) -> None:
        raise AssertionError("a score that is on disk is taken again")

    monkeypatch.setattr("eval.evaluator.Evaluations.__call__", score)
    assert train.main([MNIST, *SMALL, f"save_folder={folder}"]) == 0
    again, first = (runs.read_results(part / "run") for part in (folder, made))
    assert again["evaluations"] == first["evaluations"]


def test_a_checkpoint_of_an_earlier_release_keeps_its_scores() -> None:
    row = {"step": 2, "key": "k", "evaluation": "a", "metric": "acc", "value": 0.5, "stderr": None, "n": 9}
    recorder = Recorder(lambda model, names: [], lambda name: "k", [], None, 4)
    recorder.load_state_dict({"json": json.dumps({"rows": [as_schema_1(row)], "seconds": 1.5})})
    assert recorder.rows == [row] and recorder.seconds == 1.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "one"}, "seed: "),
        ({"config": {"method": "sfa"}}, "config lacks tasks, eval: it was not written by this suite"),
        ({"metrics": 3}, "metrics: "),
        ({"evaluations": [{"after": "base", "task": "a", "metric": "acc", "value": "x", "stderr": None, "n": 1}]}, "x"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_in_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = kept_run(tmp_path, **change)
    with pytest.raises(UsageError) as caught:
        runs.read_results(run)
    assert str(caught.value).startswith(str(run / "results.json")) and "\n" not in str(caught.value)
    assert said in str(caught.value) or (said == "x" and "evaluations.0.value: " in str(caught.value))
