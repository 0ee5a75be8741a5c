"""A stream that starts from a tuned model is the rest of the stream that tuned it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from eval import available
from sfa.config import ConfigError, load
from sfa.stages.plan import plan
from sfa.stages.results import summarize
from tests.small import LICENCES, QUICKSTART
from tests.test_train import SMALL

BEFORE: dict[str, Any] = {"name": "arithmetic", "evaluate_only": True}
TRAIN = {"max_duration": "6ba", "global_batch_size": 4, "seq_len": 512, "lr": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def ran(folder: Path, *arguments: str) -> dict[str, Any]:
    assert train.main([*arguments, f"save_folder={folder}", "eval.interval=null", "name=run"]) == 0
    return dict(json.loads((folder / "run" / "results.json").read_text()))


def whole(folder: Path, method: str) -> dict[str, Any]:
    """The run of a whole stream."""
    return ran(
        folder, QUICKSTART, *SMALL, f"tasks=[arithmetic,{LICENCES}]", "train.max_duration=6ba", f"method={method}"
    )


def config(folder: Path, method: str, **changes: Any) -> Path:
    """A config that starts from the model after the first task of that stream."""
    manifests = [json.loads(file.read_text()) for file in folder.glob("stages/*/manifest.json")]
    places = {
        manifest["task"]: str(folder / "stages" / manifest["fingerprint"] / "model")
        for manifest in manifests
        if manifest["spec"]["kind"] != "merge" and manifest["method"] in ("none", "sequential")
    }
    content = yaml.safe_load(Path(QUICKSTART).read_text())
    content |= {
        "model": {"name": places["arithmetic"], "base": places["base"]},
        "tasks": [BEFORE, yaml.safe_load(LICENCES)],
    }
    content |= {"method": method, "name": "tuned", "loggers": {}, **changes}
    file = folder / "tuned.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def final(folder: Path, results: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(folder / "stages" / results["stages"][-1]["fingerprint"] / "model" / "model.safetensors")


@pytest.mark.parametrize("method", ["sfa", "wise_ft", "task_arithmetic"])
def test_it_ends_in_the_weights_and_the_metrics_of_the_whole_stream(method: str, folder: Path) -> None:
    expected = whole(folder, method)
    weights = final(folder, expected)
    small = [part for part in SMALL if not part.startswith(("model.", "tasks="))]
    results = ran(folder, str(config(folder, method)), *small, "train.max_duration=6ba")
    assert [stage["task"] for stage in results["stages"]] == ["licences"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in final(folder, results).items())
    rows = {(row["after"], row["evaluation"]): row["value"] for row in results["evaluations"]}
    assert {after for after, _ in rows} == {"base", "tuned", "licences"}
    for row in expected["evaluations"]:
        after = "tuned" if row["after"] == "arithmetic" else row["after"]
        assert rows[after, row["evaluation"]] == row["value"]
    assert results["metrics"] == pytest.approx(expected["metrics"])


def errors(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, overrides, available)
    return caught.value.errors


@pytest.mark.parametrize("method", ["rehearsal", "ewc"])
def test_a_method_without_anything_to_do_is_an_error_of_the_config(method: str, folder: Path) -> None:
    whole(folder, "sequential")
    file = config(folder, method)
    assert errors(file)[0].startswith(f"method: {method} acts from the second trained task on")
    assert "set model.base" in errors(file, "method=sfa", "model.base=null")[0]
    assert "fisher needs examples of what each model was tuned on" in errors(file, "method=fisher")[0]
    assert "base must be the model that name was tuned from" in errors(file, "model.base=${model.name}")[0]
    assert "model.base: must be a folder" in errors(file, "model.base=./none", "method=sfa")[0]
    (error,) = errors(file, "method=task_arithmetic", "task_arithmetic.weights=[1]")
    assert "must hold one number for each of the 2 tasks" in error  # the tuned model's among them


def test_a_base_changes_no_fingerprint_of_a_stage_that_does_not_need_it(folder: Path) -> None:
    whole(folder, "sequential")
    file = config(folder, "sequential")
    with_base, without = plan(load(file)), plan(load(file, ["model.base=null"]))
    assert [stage.fingerprint for stage in with_base[1:]] == [stage.fingerprint for stage in without]


def test_metrics_without_a_task_of_the_tuned_model_start_from_it() -> None:
    """One task, first at 0.2 in the base and 0.3 in the tuned model, then 0.9 and, after another task, 0.5."""
    scores: Any = [[("score", a), ("score", b)] for a, b in [(0.2, 0.0), (0.3, 0.1), (0.9, 0.1), (0.5, 0.8)]]
    found = summarize(scores, [True, True], 0, True)
    assert found is not None and np.isclose(found["forgetting"], 0.4) and np.isclose(found["backward_transfer"], -0.4)
    three: Any = [[*row, ("score", 0.5)] for row in scores[:3]]
    at_once = summarize(three, [False, True, True], 1, True)  # one stage for both trained tasks
    assert at_once is not None and at_once["forgetting"] == 0 and np.isclose(at_once["average"], 0.5)
    found = summarize(scores[:1] + scores[1:2] + scores[3:], [False, True], 1, True)
    assert found is not None and np.isclose(found["forgetting"], -0.2) and np.isclose(found["backward_transfer"], 0.2)
