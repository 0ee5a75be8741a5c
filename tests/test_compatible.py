"""Merges compare what shapes cannot tell: settings, tokens, images and adapters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from scripts import merge
from sfa import extras, merging
from sfa.mlp import MLPConfig, MLPForImageClassification
from tests.folders import files
from tests.test_bad_input import pretrained

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG, PIXELS, ADAPTERS = "config.json", "preprocessor_config.json", "adapter_config.json"
OTHER_BASE, LINEAR = (
    {"rope_theta": 5e5, "rope_type": "default"},
    {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
)
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 4}
NAMES = {"transformers_version": "4.0.0", "_name_or_path": "x", "dtype": "bfloat16", "use_cache": False}
ORDER = {"target_modules": ["v_proj", "q_proj"], "revision": "main", "lora_dropout": 0.5, "inference_mode": False}
Change = Callable[[Path], Any]


def edit(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of every kind that can differ without a difference in shape."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    pretrained(root / "llama")
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, **SIZES)).save_pretrained(root / "neox")
    ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)).save_pretrained(
        root / "vit"
    )
    size = {"height": 8, "width": 8}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(root / "vit")
    MLPForImageClassification(MLPConfig(image_size=4, hidden_sizes=(4,), num_labels=3)).save_pretrained(root / "mlp")
    bases = {name: LlamaForCausalLM.from_pretrained(root / "llama") for name in ("one", "two")}
    for name, base in bases.items():
        torch.manual_seed(0)
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p), alpha=0.01 if name == "one" else 0.02)
        adapted.save_pretrained(root / f"lora_{name}")
    return root


DIFFERENT: list[tuple[str, str, dict[str, Any], str]] = [
    ("llama", CONFIG, {"rope_parameters": OTHER_BASE}, "rope_theta is 10000.0 and 500000.0"),
    ("llama", CONFIG, {"rope_parameters": LINEAR}, 'rope_type is "default" and "linear"'),
    ("llama", CONFIG, {"rope_theta": 5e5, "rope_parameters": None}, "rope_theta is 10000.0 and 500000.0"),
    ("llama", CONFIG, HEADS, "num_attention_heads is 2 and 4"),
    ("llama", CONFIG, {"hidden_act": "gelu"}, 'hidden_act is "silu" and "gelu"'),
    ("llama", CONFIG, {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-06 and 1e-05"),
    ("llama", CONFIG, {"max_position_embeddings": 4096}, "max_position_embeddings is 2048 and 4096"),
    ("llama", CONFIG, {"eos_token_id": 5}, "eos_token_id is 2 and 5"),
    ("llama", CONFIG, {"hidden_act": "gelu", "rms_norm_eps": 1e-5}, 'hidden_act is "silu" and "gelu"; rms_norm_eps is'),
    ("llama", CONFIG, {"quantization_config": {"quant_method": "awq"}}, "is quantized"),
    ("neox", CONFIG, {"use_parallel_residual": False}, "use_parallel_residual is true and false"),
    ("neox", CONFIG, {"layer_norm_eps": 1e-3}, "layer_norm_eps is 1e-05 and 0.001"),
    ("vit", CONFIG, {"id2label": {"0": "b", "1": "a", "2": "c"}}, "id2label.0"),
    ("vit", CONFIG, {"hidden_act": "relu"}, 'hidden_act is "gelu" and "relu"'),
    ("vit", PIXELS, {"image_mean": [0.4, 0.5, 0.5]}, "image_mean is [0.5, 0.5, 0.5] and [0.4, 0.5, 0.5]"),
    ("vit", PIXELS, {"size": {"height": 12, "width": 8}}, "size.height is 8 and 12"),
    ("mlp", CONFIG, {"num_channels": 4, "image_size": 2}, "image_size is 4 and 2; num_channels is 1 and 4"),
    ("lora_one", ADAPTERS, {"lora_alpha": 64}, "lora_alpha is 8 and 64"),
    ("lora_one", ADAPTERS, {"use_rslora": True}, "use_rslora is false and true"),
    ("lora_one", ADAPTERS, {"use_dora": True}, "use_dora is false and true"),
    ("lora_one", ADAPTERS, {"target_modules": ["q_proj", "k_proj"]}, '"v_proj"] and ["k_proj", "q_proj"]'),
    ("lora_one", ADAPTERS, {"target_modules": ".*_proj"}, 'and ".*_proj"'),
    ("lora_one", ADAPTERS, {"base_model_name_or_path": "other/base"}, 'and "other/base"'),
    ("lora_one", ADAPTERS, {"revision": "v2"}, 'revision is "main" and "v2"'),
    ("lora_one", ADAPTERS, {"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is {} and"),
    ("lora_one", ADAPTERS, {"fan_in_fan_out": True}, "fan_in_fan_out is false and true"),
    ("lora_one", ADAPTERS, {"peft_type": "IA3"}, 'peft_type is "LORA" and "IA3"'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "file", "changes", "message"), DIFFERENT)
@pytest.mark.parametrize("turned", [False, True])
def test_settings_that_change_the_function_are_named_with_both_values(
    kind: str, file: str, changes: dict[str, Any], message: str, turned: bool, models: Path, tmp_path: Path
) -> None:
    first, second = models / kind, shutil.copytree(models / kind, tmp_path / "two")
    edit(file, **changes)(second)
    with pytest.raises(ValueError, match="cannot be merged") as error:
        merging.soup([second, first] if turned else [first, second], tmp_path / "out")
    assert (message in str(error.value)) or turned, error.value
    assert "\n" not in str(error.value) and files(tmp_path / "out") == []


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "fisher"])
def test_every_method_compares(method: str, models: Path, tmp_path: Path) -> None:
    first, second = models / "llama", shutil.copytree(models / "llama", tmp_path / "two")
    edit("config.json", hidden_act="gelu")(second)
    calls: dict[str, Callable[[Path], Any]] = {
        "average": lambda out: merging.average(first, second, 0.5, out),
        "task_arithmetic": lambda out: merging.task_arithmetic(first, [second], [1.0], out),
        "ties": lambda out: merging.ties(first, [second], [1.0], out),
        "fisher": lambda out: merging.fisher([first, second], [first, second], [1.0, 1.0], out),
    }
    with pytest.raises(ValueError, match="hidden_act"):
        calls[method](tmp_path / "out")
    assert files(tmp_path / "out") == []


SAME: list[tuple[str, str, dict[str, Any], str]] = [
    ("llama", CONFIG, NAMES, ""),
    ("llama", CONFIG, {"rope_parameters": None, "rope_theta": 1e4}, ""),  # as older versions wrote it
    ("llama", CONFIG, {"architectures": None, "attention_dropout": 0.1}, "Settings of training alone differ"),
    ("llama", CONFIG, {"architectures": ["FSDPLlamaForCausalLM"], "initializer_range": 0.5}, "initializer_range"),
    ("llama", "generation_config.json", {"temperature": 0.5}, "generation_config.json"),
    ("vit", PIXELS, {"image_processor_type": "ViTImageProcessorFast"}, ""),
    ("lora_one", ADAPTERS, ORDER, "the average of the products"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "file", "changes", "note"), SAME)
def test_settings_that_cannot_change_the_function_may_differ(
    kind: str, file: str, changes: dict[str, Any], note: str, models: Path, tmp_path: Path
) -> None:
    first, second = models / kind, shutil.copytree(models / kind, tmp_path / "two")
    edit(file, **changes)(second)
    notes = " ".join(merging.soup([first, second], tmp_path / "out"))
    assert note in notes if note else not notes, notes
    name = "adapter_model.safetensors" if kind == "lora_one" else "model.safetensors"
    expected = load_file(first / name)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(tmp_path / "out" / name).items())


def test_defaults_that_one_config_spells_out_are_equal(models: Path, tmp_path: Path) -> None:
    two = shutil.copytree(models / "llama", tmp_path / "two")
    settings = json.loads((two / "config.json").read_text())
    kept = ("model_type", "architectures", "vocab_size", *SIZES)
    (two / "config.json").write_text(json.dumps({key: settings[key] for key in kept}))
    merging.soup([models / "llama", two], tmp_path / "out")
    shutil.copytree(models / "lora_one", three := tmp_path / "three")
    settings = json.loads((three / "adapter_config.json").read_text())
    kept = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
    (three / "adapter_config.json").write_text(json.dumps({key: settings[key] for key in kept}))
    merging.average(models / "lora_one", three, 0.5, tmp_path / "adapters")


def vocabulary(folder: Path, change: Callable[[dict[str, int]], object]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(w5=7, w7=5), r"2 tokens other ids: 'w5' \(5 and 7\), 'w7' \(7 and 5\)"),
        (
            lambda v: v.update(other=v.pop("w150")),
            r"2 tokens other .*'w150' \(150 and none\), 'other' \(none and 150",
        ),
        (lambda v: v.pop("w199"), r"1 tokens other ids: 'w199' \(199 and none\)"),
        (lambda v: v.update(beyond=200), None),  # the embedding has no row for it
    ],
)
@pytest.mark.parametrize("transformers", [True, False])
def test_tokens_must_have_the_same_ids(
    change: Callable[[dict[str, int]], object], message: str | None, transformers: bool, models: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With and without the package that reads tokenizers."""
    monkeypatch.setattr(extras, "installed", lambda module: transformers or module != "transformers")
    two = shutil.copytree(models / "llama", tmp_path / "two")
    vocabulary(two, change)
    if message is None:
        assert merging.soup([models / "llama", two], tmp_path / "out") == [
            f"Of files that differ, {models / 'llama'}'s are kept: tokenizer.json."
        ]
    else:
        with pytest.raises(ValueError, match=message):
            merging.soup([models / "llama", two], tmp_path / "out")


def test_what_could_not_be_compared_is_reported(models: Path, tmp_path: Path) -> None:
    two = shutil.copytree(models / "llama", tmp_path / "two")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (two / name).unlink()
    assert "Only" in merging.soup([models / "llama", two], tmp_path / "out")[0]
    (two / "config.json").unlink()
    assert "names and shapes" in merging.soup([models / "llama", two], tmp_path / "bare")[0]
    three = shutil.copytree(models / "vit", tmp_path / "three")
    (three / "preprocessor_config.json").unlink()
    assert "how images are prepared" in merging.soup([models / "vit", three], tmp_path / "images")[0]


def test_adapters_of_other_random_draws_are_not_averaged(models: Path, tmp_path: Path) -> None:
    first, second = models / "lora_one", models / "lora_two"
    assert "product of averaged factors" in merging.average(first, second, 0.5, tmp_path / "same")[0]
    other = shutil.copytree(second, tmp_path / "other")
    file = other / "adapter_model.safetensors"
    drawn = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(9)) for n, t in load_file(file).items()}
    save_file(drawn, file, {"format": "pt"})
    for call in (
        lambda out: merging.soup([first, other], out),
        lambda out: merging.average(first, other, 0.5, out),
        lambda out: merging.ties(first, [second, other], [0.5, 0.5], out),
    ):
        with pytest.raises(ValueError, match=r"different random draws \(cosine .*merge each into its base"):
            call(tmp_path / "out")
    with pytest.raises(ValueError, match="holds adapters, and the other a whole model"):
        merging.soup([models / "llama", first], tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_the_card_says_what_is_averaged(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["average", str(models / "lora_one"), str(models / "lora_two"), "--out", str(tmp_path / "o u t")]
    assert merge.main(arguments) == 0
    card = (tmp_path / "o u t" / "README.md").read_text()
    assert "their factors A and B are averaged, each for itself" in card and f"--out '{tmp_path}/o u t'" in card
    assert "their factors A and B" in capsys.readouterr().out
