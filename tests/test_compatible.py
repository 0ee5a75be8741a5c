"""Merges compare what shapes cannot tell, write all or nothing, and weigh information however small it is."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
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
from sfa.config import ConfigError, load
from sfa.mlp import MLPConfig, MLPForImageClassification
from sfa.stages.plan import plan
from tests.test_bad_input import pretrained
from tests.test_methods import QUICKSTART

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


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) if folder.exists() else []


def bare(folder: Path, **tensors: Any) -> Path:
    folder.mkdir(parents=True)
    given = {name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()}
    save_file(given, folder / "model.safetensors", {"format": "pt"})
    return folder


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
    one, two = models / kind, shutil.copytree(models / kind, tmp_path / "two")
    edit(file, **changes)(two)
    with pytest.raises(ValueError, match="cannot be merged") as error:
        merging.soup([two, one] if turned else [one, two], tmp_path / "out")
    assert (message in str(error.value)) or turned, error.value
    assert "\n" not in str(error.value) and files(tmp_path / "out") == []


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "fisher"])
def test_every_method_compares(method: str, models: Path, tmp_path: Path) -> None:
    one, two = models / "llama", shutil.copytree(models / "llama", tmp_path / "two")
    edit("config.json", hidden_act="gelu")(two)
    calls: dict[str, Callable[[Path], Any]] = {
        "average": lambda out: merging.average(one, two, 0.5, out),
        "task_arithmetic": lambda out: merging.task_arithmetic(one, [two], [1.0], out),
        "ties": lambda out: merging.ties(one, [two], [1.0], out),
        "fisher": lambda out: merging.fisher([one, two], [one, two], [1.0, 1.0], out),
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
    one, two = models / kind, shutil.copytree(models / kind, tmp_path / "two")
    edit(file, **changes)(two)
    notes = " ".join(merging.soup([one, two], tmp_path / "out"))
    assert note in notes if note else not notes, notes
    name = "adapter_model.safetensors" if kind == "lora_one" else "model.safetensors"
    expected = load_file(one / name)
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


def test_what_could_not_be_compared_is_told(models: Path, tmp_path: Path) -> None:
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
    one, two = models / "lora_one", models / "lora_two"
    assert "product of averaged factors" in merging.average(one, two, 0.5, tmp_path / "same")[0]
    other = shutil.copytree(two, tmp_path / "other")
    file = other / "adapter_model.safetensors"
    drawn = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(9)) for n, t in load_file(file).items()}
    save_file(drawn, file, {"format": "pt"})
    for call in (
        lambda out: merging.soup([one, other], out),
        lambda out: merging.average(one, other, 0.5, out),
        lambda out: merging.ties(one, [two, other], [0.5, 0.5], out),
    ):
        with pytest.raises(ValueError, match=r"different random draws \(cosine .*merge each into its base"):
            call(tmp_path / "out")
    with pytest.raises(ValueError, match="holds adapters, and the other a whole model"):
        merging.soup([models / "llama", one], tmp_path / "out")
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["average", "soup", "task_arithmetic", "ties", "fisher", "fishers"])
def test_a_source_that_is_not_finite_is_named_and_nothing_is_left(method: str, value: float, tmp_path: Path) -> None:
    good = bare(tmp_path / "good", a=[1.0, 2.0], b=[[1.0, 2.0]])
    other = bare(tmp_path / "other", a=[3.0, 2.0], b=[[1.0, 1.0]])
    wrong = bare(tmp_path / "wrong", a=[1.0, 1.0], b=[[1.0, value]])
    calls: dict[str, Callable[[Path], Any]] = {
        "average": lambda out: merging.average(good, wrong, 0.5, out),
        "soup": lambda out: merging.soup([good, other, wrong], out),
        "task_arithmetic": lambda out: merging.task_arithmetic(wrong, [good], [1.0], out),
        "ties": lambda out: merging.ties(good, [other, wrong], [1.0, 1.0], out),
        "fisher": lambda out: merging.fisher([good, wrong], [good, good], [1.0, 1.0], out),
        "fishers": lambda out: merging.fisher([good, other], [good, wrong], [1.0, 1.0], out),
    }
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "out", tmp_path / "there"):
        with pytest.raises(ValueError, match=r"b in .*wrong/model.safetensors is not finite"):
            calls[method](out)
    assert not (tmp_path / "out").exists() and files(tmp_path / "there") == []


def test_large_finite_weights_are_no_error_and_a_merge_that_overflows_is(tmp_path: Path) -> None:
    one, two = bare(tmp_path / "one", a=[3e38, 3e38]), bare(tmp_path / "two", a=[3e38, 2e38])
    merging.average(one, two, 0.5, tmp_path / "average")
    with pytest.raises(ValueError, match="the merged a is not finite"):
        merging.task_arithmetic(bare(tmp_path / "base", a=[0.0, 0.0]), [one, two], [1.0, 1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stray_file_is_neither_merged_nor_copied(tmp_path: Path) -> None:
    one, two = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    for folder in (one, two):
        save_file({"a": torch.full((1,), 100.0)}, folder / "model_ema.safetensors")
        (folder / "pytorch_model.bin").write_bytes(b"")
        (folder / "note.txt").write_text(folder.name)
    save_file({"b": torch.ones(1)}, two / "extra.safetensors")
    assert merging.soup([one, two], tmp_path / "out")[-1].endswith("kept: note.txt.")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [2.0]
    assert files(tmp_path / "out") == ["model.safetensors", "note.txt"]


def test_a_merge_that_was_killed_is_made_again(tmp_path: Path) -> None:
    one, two = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    (tmp_path / "out" / ".part").mkdir(parents=True)
    (tmp_path / "out" / ".part" / "half").write_text("")
    merging.soup([one, two], tmp_path / "out")
    assert files(tmp_path / "out") == ["model.safetensors"]


@pytest.mark.parametrize("out", ["one", "one/inside", "two/in/side", "full"])
def test_a_result_is_not_written_over_or_into_what_is_there(out: str, tmp_path: Path) -> None:
    one, two = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    bare(tmp_path / "full", a=[5.0])
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"is not empty|which is merged: write the result elsewhere"):
        merging.soup([one, two], tmp_path / out)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["average", "one", "two", "--beta", "nan"], 2, "--beta: must be a finite number, not nan"),
        (["average", "one", "two", "--beta", "1.5"], 2, "--beta: must be less than or equal to 1, not 1.5"),
        (["average", "one", "one"], 2, "one is given twice"),
        (["average", "one", "two", "three"], 2, "average takes 2 models"),
        (
            ["average", "one", "two", "--weights", "1", "2"],
            2,
            "for dare and fisher and task_arithmetic and ties",
        ),
        (["soup", "one", "two", "--base", "three"], 2, "--base is only for dare and task_arithmetic and ties"),
        (["soup", "one", "none"], 2, "none holds no safetensors files"),
        (["soup", "one", "torn"], 1, "torn/model.safetensors"),
        (["task_arithmetic", "one", "--base", "one"], 2, "one is given twice"),
        (["task_arithmetic", "one", "--base", "two", "--weights", "nan"], 2, "--weights.0: must be a finite number"),
        (["ties", "one", "--base", "two", "--weights", "inf"], 2, "--weights.0: must be a finite number"),
        (["ties", "one", "--base", "two", "--scale", "nan"], 2, "--scale: must be a finite number, not nan"),
        (["ties", "one", "--base", "two", "--density", "nan"], 2, "--density: must be a finite number, not nan"),
        (["fisher", "one", "two", "--fishers", "one", "two", "--weights", "0", "0"], 1, "not all zero"),
        (
            ["fisher", "one", "two", "--fishers", "one", "two", "--weights", "1", "-1"],
            1,
            "must not be negative, and not all zero",
        ),
        (["fisher", "one", "two", "--fishers", "one", "minus"], 1, "minus contains a negative value"),
        (["fisher", "one", "two", "--fishers", "one"], 2, "fisher needs as many --fishers as models"),
        (["soup", "one", "two", "--normalize"], 2, "--normalize is only for fisher"),
    ],
)
def test_scripts_merge_ends_with_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, value in (("one", 1.0), ("two", 2.0), ("three", 3.0), ("minus", -1.0)):
        bare(Path(name), a=[value, 2.0])
    Path("torn").mkdir()
    Path("torn/model.safetensors").write_bytes(Path("one/model.safetensors").read_bytes()[:-3])
    try:
        found: Any = merge.main([*arguments, "--out", "out"])
    except SystemExit as ended:
        found = ended.code
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert (found, message in told) == (code, True), told
    assert not Path("out").exists()


def test_negative_weights_of_task_arithmetic_forget(tmp_path: Path) -> None:
    base, one = bare(tmp_path / "base", a=[1.0]), bare(tmp_path / "one", a=[3.0])
    merging.task_arithmetic(base, [one], [-0.5], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [0.0]


def test_the_card_says_what_is_averaged(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["average", str(models / "lora_one"), str(models / "lora_two"), "--out", str(tmp_path / "o u t")]
    assert merge.main(arguments) == 0
    card = (tmp_path / "o u t" / "README.md").read_text()
    assert "their factors A and B are averaged, each for itself" in card and f"--out '{tmp_path}/o u t'" in card
    assert "their factors A and B" in capsys.readouterr().out


THETAS = [[1.5, -2.25, 0.125, 7.0, 1.0, -3.0], [0.5, 1.75, 3.0, -7.0, 2.0, 5.0], [-1.0, 4.5, 9.0, 0.5, 6.0, 1.0]]
SCALES = [1.0, 1e-20, 1e-30, 1e-38, 1e-41, 3e-43, 1e-44, 1e30]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.3, 0.5], [1e-30, 2e-30, 5e-30], [1e30, 2e30, 5e30]])
def test_fisher_merging_is_exact_however_small_or_large_the_information(
    scale: float, weights: list[float], tmp_path: Path
) -> None:
    """Against fractions of what the files hold; the last two entries have no information, and that of one model."""
    given = [[1.0, 3.0, 0.5, 2.0, 0.0, 0.0], [2.0, 1.0, 8.0, 0.0, 0.0, 1.0], [4.0, 1.0, 1.0, 3.0, 0.0, 0.0]]
    models, fishers = [], []
    for i, (theta, row) in enumerate(zip(THETAS, given, strict=True)):
        models.append(bare(tmp_path / f"m{i}", a=theta))
        fishers.append(bare(tmp_path / f"f{i}", a=[value * scale for value in row]))
    merging.fisher(models, fishers, weights, tmp_path / "out")
    held = [[Fraction(x) for x in load_file(f / "model.safetensors")["a"].tolist()] for f in fishers]
    found = load_file(tmp_path / "out" / "model.safetensors")["a"]
    for k in range(6):
        top = sum(Fraction(w) * f[k] * Fraction(t[k]) for w, f, t in zip(weights, held, THETAS, strict=True))
        bottom = sum(Fraction(w) * f[k] for w, f in zip(weights, held, strict=True))
        exact = top / bottom if bottom else sum(Fraction(t[k]) for t in THETAS) / 3
        assert float(found[k]) == float(np.float32(float(exact))), k


def test_normalized_fisher_information_does_not_depend_on_the_size_of_gradients(tmp_path: Path) -> None:
    """The second task's gradients are a thousand times as large; its information counts no more for that."""
    one, two = bare(tmp_path / "one", a=[1.0, 2.0], b=[3.0]), bare(tmp_path / "two", a=[3.0, 6.0], b=[5.0])
    information = {"a": [3.0, 0.0], "b": [4.0]}
    bare(tmp_path / "f1", **information)
    found = {}
    for scale in (1.0, 1e6, 1e-20, 1e-38):
        scaled = {name: [value * scale for value in values] for name, values in information.items()}
        fishers = [tmp_path / "f1", bare(tmp_path / f"f{scale}", **scaled)]
        for normalize in (False, True):
            out = tmp_path / f"out{scale}{normalize}"
            merging.fisher([one, two], fishers, [0.75, 0.25], out, normalize)
            found[scale, normalize] = load_file(out / "model.safetensors")
        # Of the second entry neither knows anything: each has the floor, and the weights are as given.
        assert found[scale, True]["a"].tolist() == pytest.approx([1.5, 3.0], rel=1e-6)
        assert found[scale, True]["b"].tolist() == pytest.approx([3.5], rel=1e-6)
    assert found[1e6, False]["b"].tolist() == pytest.approx([5.0], rel=1e-4)


def test_the_norm_is_that_of_the_whole_model_and_the_floor_a_millionth_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    theta = [{n: rng.standard_normal(size) for n, size in (("a", (40, 3)), ("b", (7,)))} for _ in range(2)]
    information = [
        {n: 10.0 ** rng.uniform(-12, 0, t.shape) * 50**i for n, t in one.items()} for i, one in enumerate(theta)
    ]
    folders = [bare(tmp_path / f"m{i}", **one) for i, one in enumerate(theta)]
    fishers = [bare(tmp_path / f"f{i}", **one) for i, one in enumerate(information)]
    merging.fisher(folders, fishers, [0.4, 0.6], tmp_path / "out", normalize=True)
    norms = [np.sqrt(sum((t.astype(np.float64) ** 2).sum() for t in one.values())) for one in information]
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("a", "b"):
        weighted = [w * np.maximum(f[name] / n, 1e-6) for w, f, n in zip((0.4, 0.6), information, norms, strict=True)]
        expected = sum(w * t[name] for w, t in zip(weighted, theta, strict=True)) / sum(weighted)
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-5)
        assert (weighted[0] == 0.4e-6).any() and (weighted[0] > 0.4e-6).any()


def test_information_of_zeros_is_all_floor(tmp_path: Path) -> None:
    one, two = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    none = bare(tmp_path / "none", a=[0.0])
    merging.fisher([one, two], [none, none], [0.75, 0.25], tmp_path / "out", normalize=True)
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [1.5]
    merging.fisher([one, two], [none, none], [0.75, 0.25], tmp_path / "plain")
    assert load_file(tmp_path / "plain" / "model.safetensors")["a"].tolist() == [2.0]


def test_normalizing_makes_other_stages_and_the_default_the_same_as_before() -> None:
    def ends(*overrides: str) -> dict[str, Any]:
        return dict(plan(load(QUICKSTART, ["method=fisher", *overrides]))[-1].spec()["method"])

    assert ends() == ends("fisher.normalize=false") and "normalize" not in ends()
    assert ends("fisher.normalize=true") == {**ends(), "normalize": True}


@pytest.mark.parametrize(
    ("weights", "message"),
    [("[0,1,1]", "the first more than 0"), ("[1,-1,1]", "must not be negative"), ("[1,.nan,1]", "finite")],
)
def test_weights_that_have_no_mean_are_told(weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(QUICKSTART, ["method=fisher", f"fisher.weights={weights}"])
