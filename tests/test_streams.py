"""Streams of every kind through the command line: encoder-decoder, adapters, multitask, a task held back."""

import json
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composer.core import State
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import train
from scripts import evaluate
from sfa import SFA, merge_steps
from sfa.data import registered
from sfa.data.batches import BatchSchedule
from sfa.data.packing import Arrays
from sfa.methods.sfa import SFA as Averaging
from sfa.models.tokenizer_training import train_tokenizer
from sfa.stages import training
from sfa.stages.callbacks import Stopper
from tests.small import QUICKSTART, SMALL
from tests.test_sources import SCHEMAS, jsonl, numbered

TRAIN = {"max_duration": "10ba", "global_batch_size": 4, "seq_len": 64, "lr": 1e-3, "save_interval": "4ba"}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2, "feed_forward_proj": "gated-gelu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("wiki_auto_asset_turk", "covid_fact"):
        for k, split in enumerate(("train", "test")):
            jsonl(folder / name, split, [numbered(SCHEMAS[name], 100 * k + i) for i in range(30)])
    return folder


def run(folder: Path, config: dict[str, Any], *overrides: str) -> dict[str, Any]:
    file = folder / f"{config['name']}.yaml"
    file.write_text(yaml.safe_dump({"loggers": {}, "save_folder": str(folder), "train": TRAIN, **config}))
    assert train.main([str(file), *overrides]) == 0
    name = next((o.removeprefix("name=") for o in overrides if o.startswith("name=")), config["name"])
    return dict(json.loads((folder / name / "results.json").read_text()))


def test_an_instruction_stream_on_an_encoder_decoder(data: Path, tmp_path: Path) -> None:
    config = {
        "name": "t5",
        "model": {"architecture": "t5", "config": T5, "tokenizer": {"vocab_size": 400}},
        "tasks": [{"name": "simpl"}, {"name": "covid_fact"}],
        "method": "sfa",
        "data_folder": str(data),
        "eval": {"interval": "5ba", "limit": 10},
    }
    results = run(tmp_path, config)
    assert [stage["merge_steps"] for stage in results["stages"]] == [[], merge_steps(10, 0.25)]
    losses = {(row["after"], row["evaluation"]): row for row in results["evaluations"]}
    assert losses["simpl", "simpl_loss"]["value"] < losses["base", "simpl_loss"]["value"]
    assert losses["covid_fact", "covid_fact"]["majority"] == 1.0 and losses["base", "simpl_loss"]["n"] == 10
    assert results["metrics"] is None  # one task has a loss alone, the other an accuracy
    # A task that is held back is evaluated, never trained on.
    single = run(tmp_path, config, "name=alone", "method=multitask", "tasks.0.evaluate_only=true")
    assert [stage["task"] for stage in single["stages"]] == ["multitask"]
    assert {row["evaluation"] for row in single["evaluations"]} == {"simpl_loss", "covid_fact", "covid_fact_loss"}
    both = run(tmp_path, config, "name=both", "method=multitask")
    assert [stage["steps"] for stage in single["stages"] + both["stages"]] == [10, 20]
    loss = {
        name: next(
            r["value"] for r in result["evaluations"] if r["after"] != "base" and r["evaluation"] == "simpl_loss"
        )
        for name, result in (("alone", single), ("both", both))
    }
    assert loss["both"] < loss["alone"]


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def adapted_stream(tmp_path: Path) -> dict[str, Any]:
    """A config of two tasks on adapters of a small Llama, which is written to ``llama``."""
    tokenizer = train_tokenizer(400, [registered("arithmetic")])
    tokenizer.bos_token = tokenizer.eos_token
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=0, **SIZES)).save_pretrained(
        tmp_path / "llama"
    )
    tokenizer.save_pretrained(tmp_path / "llama")
    return {
        "name": "lora",
        "model": {"name": str(tmp_path / "llama"), "template": "instruction", "lora": {"rank": 2}},
        "tasks": [{"name": "arithmetic"}, {"name": "returns", "lines": 1}],
        "method": "sfa",
        "sfa": {"p": 0.5, "beta": 0.25},
        "eval": {"interval": None, "limit": 6},
    }


def test_a_stream_of_adapters_merges_the_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(tmp_path, adapted_stream(tmp_path))
    folders = [tmp_path / "stages" / stage["fingerprint"] for stage in results["stages"]]
    first, second = (load_file(folder / "model" / "adapter_model.safetensors") for folder in folders)
    moved = float(sum(((second[key] - first[key]).double() ** 2).sum() for key in first) ** 0.5)
    assert results["stages"][1]["l2_from_anchor"] == pytest.approx(moved, rel=1e-6)
    (*_, last) = json.loads((folders[1] / "manifest.json").read_text())["merges"]
    assert last["l2_after"] == pytest.approx(moved, rel=1e-4)
    assert last["l2_after"] == pytest.approx(0.75 * last["l2_before"], rel=1e-4)
    assert not list((tmp_path / "stages").glob("*/model/model.safetensors"))
    command = [str(folders[1] / "model"), "--tasks", "arithmetic_loss", "--limit", "2"]
    assert evaluate.main(command) == 0
    vocabulary = LlamaConfig.from_pretrained(tmp_path / "llama").vocab_size
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, eos_token_id=0, **SIZES)).save_pretrained(tmp_path / "llama")
    capsys.readouterr()
    assert evaluate.main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'llama'}, which the adapters in {folders[1]} were trained on, has changed" in line


@pytest.mark.parametrize("parallelism", ["none", "fsdp2"])
def test_a_checkpoint_holds_only_adapters_and_resumes_bitwise(
    parallelism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before and after the first merge. The model under the adapters is read again."""
    config = {**adapted_stream(tmp_path), "parallelism": parallelism}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", config)
    for stop in (3, 7):
        with monkeypatch.context() as patch:
            patch.setattr(Stopper, "batch_end", partialmethod(stop_in_the_second_task, stop=stop))
            with pytest.raises(AssertionError, match="130"):
                run(tmp_path / "cut", config)
        (checkpoint,) = (tmp_path / "cut").glob("stages/*/checkpoints/*")
        assert checkpoint.name.startswith(f"ep0-ba{stop}") or checkpoint.name.startswith(f"ep1-ba{stop}")
        names = [name for name in names_in(checkpoint) if name.startswith("state.model.")]
        assert len(names) == 28 and all("lora_" in name for name in names)  # A and B of seven projections, two layers
    resumed = run(tmp_path / "cut", config)
    for ours, theirs in zip(adapters(tmp_path / "cut", resumed), adapters(tmp_path / "whole", whole), strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def stop_in_the_second_task(stopper: Stopper, state: State, logger: Any, stop: int) -> None:
    averages = any(isinstance(algorithm, SFA) for algorithm in state.algorithms)
    stopper.requested = averages and int(state.timestamp.batch) >= stop


def names_in(checkpoint: Path) -> list[str]:
    """The names of a checkpoint's tensors, of a file or of a folder of shards."""
    if checkpoint.is_dir():
        return list(FileSystemReader(checkpoint).read_metadata().state_dict_metadata)
    model = torch.load(checkpoint, weights_only=False)["state"]["model"]
    return [f"state.model.{name}" for name in model]


def adapters(folder: Path, results: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    models = [folder / "stages" / stage["fingerprint"] / "model" for stage in results["stages"]]
    return [load_file(model / "adapter_model.safetensors") for model in models]


def test_products_of_adapters_are_averaged_if_asked_for(tmp_path: Path) -> None:
    """After one merge, the product of the merged factors is nearer to the average of the products than that of averaged
    factors, and as near as a matrix of this rank can be."""
    config = {**adapted_stream(tmp_path), "train": {**TRAIN, "lr": 0.02}}
    merged = {}
    for way in ("factors", "product"):
        results = run(tmp_path, config, f"name={way}", f"sfa.lora_merge={way}", "sfa.p=1", "sfa.beta=0.5")
        merged[way] = products(tmp_path, results, -1)
    plain = run(tmp_path, config, "name=plain", "method=sequential")
    first, second = products(tmp_path, plain, 0), products(tmp_path, plain, 1)
    errors = dict.fromkeys(merged, 0.0)
    for name in first:
        average = (first[name] + second[name]) / 2
        for way, by_name in merged.items():
            errors[way] += float((by_name[name] - average).norm() ** 2)
        best = float(torch.linalg.svdvals(average)[2:].norm())  # rank 2
        assert float((merged["product"][name] - average).norm()) == pytest.approx(best, abs=1e-5)
    assert errors["product"] < 0.9 * errors["factors"]


def products(tmp_path: Path, results: dict[str, Any], stage: int) -> dict[str, torch.Tensor]:
    """B·A of every adapter of a stage."""
    folder = tmp_path / "stages" / results["stages"][stage]["fingerprint"] / "model"
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name: tensors[name.replace("lora_A", "lora_B")].double() @ a.double()
        for name, a in tensors.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.lora=null"], "sfa.lora_merge: product is for adapters, and model.lora is not set"),
        (["parallelism=fsdp2"], "sfa.lora_merge: product needs whole adapters, so parallelism cannot be fsdp2"),
    ],
)
def test_products_need_whole_adapters(
    overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(adapted_stream(tmp_path)))
    assert train.main([str(tmp_path / "config.yaml"), "sfa.lora_merge=product", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_averaged_factors_have_the_fingerprint_they_always_had() -> None:
    assert "lora_merge" not in Averaging(p=0.5).weights_spec()
    assert Averaging(p=0.5, lora_merge="product").weights_spec()["lora_merge"] == "product"


def test_only_the_model_that_was_written_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model_block = {"architecture": "llama", "config": sizes, "tokenizer": {"vocab_size": 300}}
    tasks = [{"name": "arithmetic"}, {"name": "returns", "lines": 1}]
    results = run(
        tmp_path, {"name": "one", "model": model_block, "tasks": tasks, "eval": {"interval": None, "limit": 2}}
    )
    model = tmp_path / "stages" / results["stages"][-1]["fingerprint"] / "model"
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-4] + b"abcd")
    capsys.readouterr()
    assert evaluate.main([str(model), "--tasks", "arithmetic_loss", "--limit", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not the file that was written" in line and "Delete its folder to make it again" in line


def test_multitask_takes_all_rows_at_once_and_shares_the_base(tmp_path: Path) -> None:
    small = [*SMALL, "train.max_duration=6ba", "eval.limit=6"]
    for method in ("multitask", "sequential"):
        assert train.main([QUICKSTART, *small, f"save_folder={tmp_path}", f"method={method}", f"name={method}"]) == 0
    results = json.loads((tmp_path / "multitask" / "results.json").read_text())
    assert [(stage["task"], stage["steps"]) for stage in results["stages"]] == [("multitask", 18)]
    assert results["metrics"]["forgetting"] == 0 and results["stages"][0]["l2_from_anchor"] > 0
    assert len(list((tmp_path / "stages").glob("*/manifest.json"))) == 1 + 1 + 3


def test_a_balanced_multitask_training_takes_as_many_sequences_of_each_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of different texts are not packed together: half of the sequences come from each task's own rows."""
    schedules = []

    class Recorded(BatchSchedule):
        def __init__(self, current: Sequence[Arrays], *arguments: Any, **options: Any):
            super().__init__(current, *arguments, **options)
            schedules.append((current, self.order))

    monkeypatch.setattr(training, "BatchSchedule", Recorded)
    small = [*SMALL, "train.max_duration=3ba", "eval.limit=6", "tasks=[arithmetic,returns]"]
    small += ["method=multitask", "multitask.balanced=true", f"save_folder={tmp_path}"]
    assert train.main([QUICKSTART, *small]) == 0
    ((groups, order),) = schedules
    vocabulary = next(tmp_path.glob("stages/*/model"))
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    texts = [" ".join(tokenizer.batch_decode(group["input_ids"])) for group in groups]
    assert ["Question:" in text for text in texts] == [True, False]
    assert ["Returns:" in text for text in texts] == [False, True]
    sizes = [len(group["labels"]) for group in groups]
    assert [int((order < sizes[0]).sum()), int((order >= sizes[0]).sum())] == [12, 12]


def test_a_model_is_evaluated_as_in_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest of a stage, trained or merged, says in which template prompts are shown and how long rows are."""
    small = [*SMALL, "train.max_duration=3ba", "eval.limit=20", "tasks=[arithmetic,returns]"]
    small += ["model.tokenizer={train_on: [licences], vocab_size: 1024}"]
    small += ["train.lr=0.02", "model.template=instruction", "train.seq_len=128", "method=wise_ft"]
    small += ["eval.tasks=[arithmetic_loss]"]
    assert train.main([QUICKSTART, *small, f"save_folder={tmp_path}"]) == 0
    results = json.loads((tmp_path / "quickstart" / "results.json").read_text())
    for stage in results["stages"]:
        model = str(tmp_path / "stages" / stage["fingerprint"] / "model")
        command = [model, "--tasks", "arithmetic_loss", "--limit", "20", "--out", str(tmp_path / "scores.json")]
        assert evaluate.main(command) == 0
        assert "template instruction (from the stage's manifest)" in capsys.readouterr().err
        (row,) = (row for row in results["evaluations"] if row["after"] == stage["task"])
        own = json.loads((tmp_path / "scores.json").read_text())[0]["value"]
        assert own == pytest.approx(row["value"], rel=1e-5)
        assert evaluate.main([*command, "--template", "plain"]) == 0
        assert "template plain (the model was trained with instruction)" in capsys.readouterr().err
        assert json.loads((tmp_path / "scores.json").read_text())[0]["value"] != pytest.approx(own, rel=1e-3)
    base = results["evaluations"][0]
    assert base["after"] == "base"
    (folder,) = (f.parent for f in tmp_path.glob("stages/*/manifest.json") if '"parent": null' in f.read_text())
    assert evaluate.main([str(folder / "model"), "--tasks", "arithmetic_loss", "--limit", "20"]) == 0
    assert "the model is not of a trained stage" in capsys.readouterr().err
