"""Two ranks on gloo give the folders of a single process, agree on θ_o, and go on from each other's checkpoints."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfa import merging, weights
from tests import COMPOSER
from tests.exports import MODELS, built, content
from tests.shards_worker import DIFFERENT, STEPS, run
from tests.small import LICENCES, QUICKSTART, ROOT, SMALL
from tests.toy import Regression, trainer
from tests.toy import weights as parameters

STOP = 5  # of 12 steps of the second task, whose fourth is a merge
ARGUMENTS = [
    QUICKSTART,
    *SMALL,
    "method=sfa",
    f"tasks=[arithmetic, {LICENCES}]",
    "model.config.hidden_size=40",
    "model.config.intermediate_size=61",
    "model.config.tie_word_embeddings=true",
    "train.max_duration=12ba",
    "train.optimizer=sgd",
    "train.momentum=0.9",
    "train.lr=0.1",
    "sfa.p=0.35",
    "eval.limit=2",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two ranks filled, beginning with what a single process made: the first task's stage, the whole
    run, and the run interrupted in its second task."""
    folder = tmp_path_factory.mktemp("shards")
    assert run(folder / "base", [*ARGUMENTS, "tasks=[arithmetic]", "method=sequential"]) == 0
    for name in ("whole", "one"):
        shutil.copytree(folder / "base", folder / name)
    assert run(folder / "whole", ARGUMENTS) == 0
    assert run(folder / "one", ARGUMENTS, STOP) == 130
    (folder / "given.json").write_text(json.dumps({"arguments": ARGUMENTS, "stop": STOP}))
    command = [COMPOSER, "-n", "2", "-m", "tests.shards_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "record.json").read_text()))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_that_of_a_single_process(name: str, out: Path, tmp_path: Path) -> None:
    """File list, names, shapes, dtypes and bytes; and as transformers itself writes it, with its adapters alone."""
    model = built(name)
    weights.save_model(model, tmp_path / "one")
    single = content(tmp_path / "one")
    if hasattr(model, "peft_config"):
        assert all("lora_" in tensor for tensor in load_file(tmp_path / "one" / "adapter_model.safetensors"))
    else:
        model.save_pretrained(tmp_path / "theirs")
        assert single == content(tmp_path / "theirs")
    for form in ("ddp", "fsdp2"):
        actual = content(out / form / name)
        assert actual.keys() == single.keys()
        assert [file for file in single if actual[file] != single[file]] == []
    shards = content(out / "shards" / name)
    assert {file: shards[file] for file in single} == single
    assert weights.distance(out / "fsdp2" / name, tmp_path / "one") == 0


def test_shards_are_read_as_they_were(record: dict[str, Any]) -> None:
    assert record["read"] and all(record["read"].values()), record["read"]


def test_models_of_different_parallelism_are_merged(out: Path, tmp_path: Path) -> None:
    for name in ("gpt_neox", "gpt_neox tied", "t5", "t5 tied"):
        merging.average(out / "ddp" / name, out / "fsdp2" / name, 0.5, tmp_path / name)
        assert content(tmp_path / name) == content(out / "ddp" / name)


def test_an_anchor_that_one_rank_cannot_read_is_an_error_on_all(record: dict[str, Any]) -> None:
    assert [("nowhere holds no safetensors files" in said) for said in record["nowhere"]] == [True, True]


@pytest.mark.parametrize("kind", DIFFERENT)
def test_ranks_that_were_built_differently_train_and_resume_as_rank_0_alone(
    kind: str, out: Path, record: dict[str, Any], tmp_path: Path
) -> None:
    model = Regression(outputs=3)
    fit = trainer(model, STEPS, [DIFFERENT[kind](tmp_path / "fisher")])
    fit.fit()
    fit.close()
    shards = load_file(out / f"different-{kind}.safetensors")
    for name, expected in parameters(model).items():
        torch.testing.assert_close(shards[name], expected, rtol=0, atol=1e-6)
    message = record["different"][kind]
    assert message["replicas"] and message["resumed"]
    assert all("anchor of the resumed fit is not the one" in said for said in message["wrong"])


def test_shards_that_were_built_differently_resume_bitwise(record: dict[str, Any]) -> None:
    """FSDP2 takes each rank's shard of the model that the rank has built."""
    assert record["different"]["fsdp2"]


def test_a_run_goes_on_under_another_parallelism(out: Path, record: dict[str, Any]) -> None:
    runs = ["sharded-ddp", "sharded-full", "one-sharded"]
    assert record["codes"] == {"sharded": 130, **dict.fromkeys(runs, 0)}
    (left,) = (out / "sharded").glob("stages/*/checkpoints/*")
    assert left.is_dir()
    assert run(out / "sharded", ARGUMENTS) == 0
    whole = {file.parts[-3]: load_file(file) for file in (out / "whole").glob("stages/*/model/model.safetensors")}
    assert len(whole) == 3
    for name in [*runs, "sharded"]:
        assert not list((out / name).glob("stages/*/checkpoints"))
        for stage, tensors in whole.items():
            weights = load_file(out / name / "stages" / stage / "model" / "model.safetensors")
            assert weights.keys() == tensors.keys()
            for tensor, expected in tensors.items():
                torch.testing.assert_close(weights[tensor], expected, rtol=0, atol=1e-6)
