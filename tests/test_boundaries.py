"""Adapters are read from safetensors alone, and no name in a file of results leads out of the folder of runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scripts import compare, export, report
from scripts.paper import claims
from sfa import curves, store
from sfa.families.decoder import Decoder
from sfa.models import building, stored
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters on a small model, in safetensors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    folder = tmp_path_factory.mktemp("adapted")
    config = GPTNeoXConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    lora = LoraConfig(task_type="CAUSAL_LM", r=1, target_modules=["query_key_value"])
    get_peft_model(base, lora).save_pretrained(folder / "adapters")
    return folder


def test_adapters_are_read_from_safetensors_alone(adapted: Path, tmp_path: Path) -> None:
    assert stored.read_model(adapted / "adapters").peft_config
    pickled = shutil.copytree(adapted / "adapters", tmp_path / "pickled")
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled has adapters but no adapter_model\.safetensors"):
        stored.read_model(pickled)
    both = shutil.copytree(adapted / "base", tmp_path / "both")
    shutil.copytree(pickled, both, dirs_exist_ok=True)
    with pytest.raises(ModelError, match=r"both has adapters but no adapter_model\.safetensors"):
        building.build(Model(name=str(both)), 1, Decoder())
    under = json.loads((adapted / "adapters" / "adapter_config.json").read_text())
    on_it = shutil.copytree(adapted / "adapters", tmp_path / "on_it")
    (on_it / "adapter_config.json").write_text(json.dumps({**under, "base_model_name_or_path": str(both)}))
    with pytest.raises(ModelError, match=r"both has adapters but no adapter_model\.safetensors"):
        stored.read_model(on_it)


OUTSIDE = ["../../outside", "/etc", "", ".", "0123456789abcdef/..", "0123456789abcdef\n", "0123456789ABCDEF", 1, None]


@pytest.mark.parametrize("value", OUTSIDE)
def test_no_fingerprint_leads_out_of_the_stages(value: Any, tmp_path: Path) -> None:
    """Each would read a file of JSON there, or copy a model."""
    folder = tmp_path / "runs" / "run"
    stage = {"fingerprint": value, "task": "odd", "steps": 1, "merge_steps": [], "l2_from_anchor": 0.0, "method": "x"}
    stage |= {"seconds": 1.0, "tokens": 1, "peak_bytes": 1, "stored_examples": 0}
    score = {"after": "base", "evaluation": "odd_accuracy", "metric": "acc", "value": 0.5, "stderr": None, "n": 2}
    content = {"stages": [stage], "evaluations": [score], "name": "run", "seed": 1, "metrics": None}
    content["config"] = {"method": "x", "tasks": [], "eval": {"tasks": None}, "sfa": {"p": None}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    readers: list[Callable[[], Any]] = [
        lambda: compare.markdown([folder], [content], ""),
        lambda: curves.curves(folder),
        lambda: export.export(folder, tmp_path / "out"),
        lambda: report._environment(folder),
    ]
    for read in readers:
        with pytest.raises(
            store.DamagedStage, match=r"is not the fingerprint of a stage: a file in .*runs was changed"
        ):
            read()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["../outside", "/etc", "", ".", "..", "a/b", "run\n", 1, None])
def test_no_name_of_a_run_leads_out_of_the_runs(value: Any, tmp_path: Path) -> None:
    index = tmp_path / "small.json"
    index.write_text(json.dumps({"sweep": "small", "runs": [{"name": value, "label": "x", "point": {}, "seed": 1}]}))
    readers: list[Callable[[], Any]] = [
        lambda: claims.Runs(tmp_path, "small"),
        lambda: report.page([index]),
    ]
    for read in readers:
        with pytest.raises(store.DamagedStage, match=r"is not the name of a run: a file in .* was changed"):
            read()


def test_checksums_are_of_files_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "outside").write_text("one")
    (tmp_path / "kept" / "a").write_text("one")
    store.write_checksums(tmp_path / "kept")
    listed = json.loads((tmp_path / "kept" / store.CHECKSUMS).read_text())
    (tmp_path / "kept" / store.CHECKSUMS).write_text(json.dumps({"../outside": listed["a"]}))
    with pytest.raises(store.DamagedStage, match="is not the file that was written"):
        store.verify_checksums(tmp_path / "kept")
