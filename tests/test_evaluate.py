"""``sfa evaluate``: a run on its own tasks, a model on the tasks of a config, and wrong commands."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from scripts import evaluate

MNIST = Path(train.__file__).parent / "yamls" / "mnist.yaml"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODEL = {"architecture": "llama", "config": SIZES, "tokenizer": {"vocab_size": 300, "train_on": ["returns"]}}


def rows(file: Path, lines: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def write_config(folder: Path, name: str, tasks: list[Any], **more: Any) -> Path:
    file = folder / f"{name}.yaml"
    content = {"name": name, "model": MODEL, "tasks": tasks, "loggers": {}, "save_folder": str(folder / "runs"), **more}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a file with an answer to be written, and one with choices, and another config with files of its own."""
    folder = tmp_path_factory.mktemp("evaluate")
    sums = [{"prompt": f"{i} + 1 =", "response": f" {i + 1}"} for i in range(80)]
    colours = [{"prompt": f"The colour of {i} is", "response": " red" if i % 2 else " blue"} for i in range(60)]
    written = {"prompt": "{prompt}", "response": "{response}", "test_fraction": 0.2}
    chosen = {**written, "choices": [" red", " blue"]}
    tasks = [
        {"name": "sums", "source": rows(folder / "sums.jsonl", sums), "metric": "exact_match", **written},
        {"name": "colours", "source": rows(folder / "colours.jsonl", colours), **chosen},
    ]
    short = {"max_duration": "2ba", "global_batch_size": 4, "seq_len": 64, "lr": 0.01}
    config = write_config(folder, "mine", tasks, train=short, eval={"interval": None})
    assert train.main([str(config)]) == 0
    others = [
        {"name": "others", "source": rows(folder / "others.jsonl", colours[::-1]), **chosen},
        {"name": "texts", "source": rows(folder / "texts.jsonl", sums[::-1]), **written},
    ]
    write_config(folder, "other", others, eval={"limit": 7})
    return folder


def scored(made: Path, *arguments: str) -> list[dict[str, Any]]:
    out = made / "scores.json"
    out.unlink(missing_ok=True)
    assert evaluate.main([*arguments, "--out", str(out)]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def without_time(found: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["after"], row["evaluation"], row["n"], pytest.approx(row["value"], rel=1e-5)) for row in found]


def test_a_run_is_scored_on_its_own_tasks_as_in_its_results(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made / "runs" / "mine"
    recorded = json.loads((run / "results.json").read_text())["evaluations"]
    assert without_time(scored(made, str(run))) == without_time([row for row in recorded if row["after"] == "colours"])
    said = capsys.readouterr()
    assert "majority class" in said.out and "from the stage's manifest" in said.err
    first = scored(made, str(run), "--stage", "sums", "--tasks", "colours")
    expected = [row for row in recorded if row["after"] == "sums" and row["evaluation"].startswith("colours")]
    assert without_time(first) == without_time(expected)
    assert first[0].keys() == expected[0].keys()


def test_a_moved_run_needs_the_data_of_the_wanted_tasks_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(made / "runs", tmp_path / "moved") / "mine"
    results = json.loads((moved / "results.json").read_text())
    results["config"]["tasks"][0]["source"] = str(tmp_path / "gone.jsonl")
    (moved / "results.json").write_text(json.dumps(results))
    (row,) = scored(made, str(moved), "--tasks", "colours", "--limit", "5")
    assert (row["after"], row["n"]) == ("colours", 5)
    capsys.readouterr()
    assert evaluate.main([str(moved)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone.jsonl does not exist" in line


def test_a_model_is_scored_on_the_tasks_of_a_config(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = str(made / "other.yaml"), made / "runs" / "mine"
    found = scored(made, str(run), "--config", config)
    assert [(row["evaluation"], row["n"]) for row in found] == [("others_accuracy", 7), ("texts_loss", 7)]
    assert found[0]["outcomes"] and found[1]["lower_is_better"] and "outcomes" not in found[1]
    assert "texts_loss" in capsys.readouterr().out
    last = json.loads((run / "results.json").read_text())["stages"][-1]["fingerprint"]
    model = shutil.copytree(run.parent / "stages" / last / "model", made / "copied", dirs_exist_ok=True)
    (row,) = scored(made, str(model), "--config", config, "eval.limit=4", "--tasks", "others")
    assert (row["after"], row["evaluation"], row["n"]) == ("base", "others_accuracy", 4)
    assert "template plain (from the config)" in capsys.readouterr().err
    names = ["--tasks", "texts_loss", "arithmetic_loss", "--limit", "3"]
    assert [row["evaluation"] for row in scored(made, str(model), "--config", config, *names)] == names[1:3]


def test_images_are_scored_as_in_their_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["train.max_duration=4ba", "eval.limit=50", "eval.interval=null", "loggers={}", f"save_folder={made}/runs"]
    assert train.main([str(MNIST), *small, "name=pictures"]) == 0
    run = made / "runs" / "pictures"
    recorded = json.loads((run / "results.json").read_text())["evaluations"]
    assert without_time(scored(made, str(run))) == without_time(recorded[-2:])
    (even,) = scored(made, str(run), "--config", str(MNIST), "--tasks", "even", "--limit", "50")
    assert without_time([even]) == without_time(recorded[-2:-1])
    for model, words, reason in (
        (
            run,
            ["--config", str(made / "other.yaml")],
            "is an image classifier, and others_accuracy is an evaluation of text",
        ),
        (
            made / "runs" / "mine",
            ["--config", str(MNIST)],
            "is a language model, and even_accuracy is an evaluation of",
        ),
    ):
        capsys.readouterr()
        assert evaluate.main([str(model), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{run}", "--stage", "laws"], "mine has no stage laws: it has sums, colours"),
        (
            ["{run}", "--tasks", "sum"],
            "--tasks: sum is not a task, like sums, colours, or an evaluation; did you mean sums",
        ),
        (["{model}", "--stage", "sums", "--tasks", "returns"], "--stage is of a run"),
        (["{model}", "--tasks", "retuns"], "--tasks: retuns is not an evaluation; did you mean returns?"),
    ],
)
def test_wrong_commands_are_one_line(
    words: list[str], reason: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made / "runs" / "mine"
    last = json.loads((run / "results.json").read_text())["stages"][-1]["fingerprint"]
    places = {"run": run, "model": run.parent / "stages" / last / "model"}
    assert evaluate.main([word.format(**places) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_wrong_usage_says_what_is_needed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made / "runs" / "mine"
    stages = json.loads((run / "results.json").read_text())["stages"]
    model = str(run.parent / "stages" / stages[-1]["fingerprint"] / "model")
    for words, reason in (
        ([model], "is not the folder of a run: say --tasks or --config"),
        ([str(run), "--tasks", "humaneval"], "add --run-generated-code"),
        ([str(run), "--tasks", "sums_loss", "--backend", "vllm"], "is scored with --backend hf only"),
    ):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main(words)
        assert reason in capsys.readouterr().err.splitlines()[-1]
    assert evaluate.main([str(run), "--config", str(made / "none.yaml")]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err
