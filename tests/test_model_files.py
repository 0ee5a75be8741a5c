"""Which files of a folder are the model, and that a model is read whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)

import train
from sfa import weights
from sfa.families.decoder import Decoder
from sfa.families.image_classifier import ImageClassifier
from sfa.mlp import MLPConfig, MLPForImageClassification
from sfa.models import building, stored
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from sfa.models.tokenizer_training import train_tokenizer
from sfa.tensors import locations
from tests.test_bad_input import config, pretrained

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
IMAGES: dict[str, Any] = {**SIZES, "image_size": 8, "patch_size": 4, "num_labels": 5}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from sfa.data import registered

    return train_tokenizer(300, [registered("arithmetic")])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(source: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(source, out)
    save_file(change(load_file(source / "model.safetensors")), out / "model.safetensors", {"format": "pt"})
    return out


def sharded(source: Path, out: Path, places: Callable[[str], str] = lambda name: name) -> Path:
    """``source`` in two files, whose names in the index are what ``places`` makes of them; they lie there."""
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for k, part in enumerate((names[:9], names[9:]), 1):
        place = places(f"model-{k:05d}-of-00002.safetensors")
        (out / place).parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in part}, out / place, {"format": "pt"})
        index |= dict.fromkeys(part, place)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return out


def reindexed(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    file = folder / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    change(content["weight_map"])
    file.write_text(json.dumps(content))


def built(folder: Path, classes: int | None = None, **more: Any) -> Any:
    family = Decoder() if classes is None else ImageClassifier(classes)
    return building.build(Model(name=str(folder)), 1, family, **more)[0]


def test_an_index_decides_and_what_lies_beside_it_is_not_the_model(llama: Path, tmp_path: Path) -> None:
    folder, expected = sharded(llama, tmp_path / "m"), load_file(llama / "model.safetensors")
    save_file({"model.norm.weight": torch.zeros(16), "ema": torch.zeros(3)}, folder / "model_ema.safetensors")
    files = locations(folder)
    assert files.keys() == expected.keys() and {file.name for file in files.values()} == {
        f"model-{k:05d}-of-00002.safetensors" for k in (1, 2)
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built(folder).state_dict().items())
    assert weights.distance(folder, llama) == 0
    (folder / "config.json").unlink()
    assert weights.full_state(folder).keys() == expected.keys()


def test_the_standard_name_wins_over_an_index_as_it_does_in_transformers(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, sharded(llama, tmp_path / "s") / "whole", lambda t: {n: v + 1 for n, v in t.items()})
    for file in (tmp_path / "s").glob("model*"):
        shutil.copyfile(file, folder / file.name)
    assert {file.name for file in locations(folder).values()} == {"model.safetensors"}
    assert all(
        torch.equal(built(folder).state_dict()[n], v + 1) for n, v in load_file(llama / "model.safetensors").items()
    )


@pytest.mark.parametrize("place", ["sub/{}", "../{}", "./{}", "/{}", "..\\{}"])
def test_an_index_that_points_out_of_its_folder_is_refused_before_anything_is_trained(
    place: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sharded(
        llama, tmp_path / "m", place.replace("/{}", f"{tmp_path}/out/{{}}" if place == "/{}" else "/{}").format
    )
    for read in (locations, built, stored.read_model, weights.full_state):
        with pytest.raises((ValueError, ModelError), match=r"weights must be in the folder itself"):
            read(folder)
    assert train.main([config(tmp_path, model={"name": str(folder)})]) == 2
    assert "model.name: model.safetensors.index.json of" in (printed := capsys.readouterr().err), printed
    assert not (tmp_path / "runs").exists()


def test_a_config_that_names_weights_elsewhere_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "m")
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    for name, right in (("mine.safetensors", True), ("sub/mine.safetensors", False)):
        (folder / "config.json").write_text(json.dumps({**settings, "transformers_weights": name}))
        if right:
            assert set(locations(folder).values()) == {folder / name} and built(folder) is not None
        else:
            shutil.copyfile(folder / "mine.safetensors", folder / name)
            with pytest.raises(ModelError, match=r"config\.json of .* names 'sub/mine.safetensors'"):
                built(folder)


def test_a_link_is_read_as_what_it_points_to(llama: Path, tmp_path: Path) -> None:
    """As in the hub's cache, whose snapshots are links into a folder of blobs. It is hashed by content too."""
    folder = shutil.copytree(llama, tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    os.symlink("../blob", folder / "model.safetensors")
    assert locations(folder).keys() == locations(llama).keys() and built(folder) is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: reindexed(m, lambda w: w.update(more="model-00003-of-00002.safetensors")), "lacks model-00003-of"),
        (lambda m: reindexed(m, lambda w: w.update(more="model-00001-of-00002.safetensors")), "lacks the tensor more,"),
        (lambda m: reindexed(m, lambda w: w.pop("lm_head.weight")), "holds the tensor lm_head.weight, which"),
        (lambda m: reindexed(m, lambda w: w.clear()), "lists no files: its weight_map must"),
        (lambda m: (m / "model.safetensors.index.json").write_text("{"), "is not valid JSON"),
        (lambda m: (m / "model.safetensors.index.json").write_text("[]"), "must contain keys and values"),
        (lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'), "lists no files"),
        (lambda m: (m / "model-00002-of-00002.safetensors").unlink(), "lacks model-00002-of-00002.safetensors, which"),
        (lambda m: (m / "model.safetensors.index.json").unlink(), "cannot be used"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_its_files(
    damage: Callable[[Path], Any], message: str, llama: Path, tmp_path: Path
) -> None:
    damage(folder := sharded(llama, tmp_path / "m"))
    with pytest.raises(ModelError, match=message):
        built(folder)


def test_a_folder_without_a_standard_name_is_all_its_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2)}, tmp_path / "two.safetensors")
    assert locations(tmp_path) == {"a": tmp_path / "one.safetensors", "b": tmp_path / "two.safetensors"}
    save_file({"b": torch.zeros(2)}, tmp_path / "three.safetensors")
    with pytest.raises(ValueError, match=r"b is in two files, .*three.* and .*two"):
        locations(tmp_path)
    (tmp_path / "three.safetensors").rename(tmp_path / "w-00001-of-00002.safetensors")
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="contains 1 of the 2 files of w"):
        locations(tmp_path)


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no head": (lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}, r"lack lm_head\.weight\."),
    "half": (lambda t: {n: v for n, v in t.items() if ".1." not in n}, r"lack model\.layers\.1\..* and 6 more"),
    "all names wrong": (lambda t: {f"x.{n}": v for n, v in t.items()}, r"lack lm_head.* and 18 more; they .* x\.lm"),
    "headless": (
        lambda t: {n.removeprefix("model."): v for n, v in t.items() if "lm_head" not in n}, r"lack lm_head\.weight\."
    ),
    "one layer more": (
        lambda t: {**t, "model.layers.2.mlp.up_proj.weight": torch.zeros(16, 16)},
        r"contain, but the model lacks, model\.layers\.2\.mlp\.up_proj\.weight\.",
    ),
    "another shape": (
        lambda t: {**t, "model.norm.weight": torch.zeros(3)}, r"shape model\.norm\.weight \(\[3\], not \[16\]\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_language_model_whose_files_lack_tensors_or_hold_others_is_refused(
    wrong: str, llama: Path, tmp_path: Path
) -> None:
    change, message = WRONG[wrong]
    folder = changed(llama, tmp_path / "m", change)
    for read in (built, stored.read_model):
        with pytest.raises(ModelError, match=message):
            read(folder)


def test_a_folder_that_lacks_a_layer_ends_a_run_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(
        pretrained(tmp_path / "a"), tmp_path / "m", lambda t: {n: v for n, v in t.items() if ".0." not in n}
    )
    assert train.main([config(tmp_path, model={"name": str(folder)})]) == 1
    assert "its files lack model.layers.0." in (err := capsys.readouterr().err) and "Traceback" not in err, err
    assert not list(tmp_path.glob("runs/stages/*/manifest.json"))


def test_tied_tensors_and_buffers_of_old_versions_may_be_absent_or_there(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tied = LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=True, **SIZES))
    tied.model.save_pretrained(tmp_path / "headless")
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2))
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=300, **SIZES))
    for name, model in (("gpt2", gpt2), ("neox", neox)):
        model.save_pretrained(tmp_path / name)
    old: Tensors = {f"h.{i}.attn.{b}": torch.ones(1) for i in (0, 1) for b in ("bias", "masked_bias")}
    bare = changed(
        tmp_path / "gpt2", tmp_path / "g", lambda t: {n.removeprefix("transformer."): v for n, v in t.items()} | old
    )
    old = {
        f"gpt_neox.layers.{i}.attention.{b}": torch.ones(1)
        for i in (0, 1)
        for b in ("bias", "masked_bias", "rotary_emb.inv_freq")
    }
    kept = changed(tmp_path / "neox", tmp_path / "n", lambda t: t | old)
    for folder, model in ((tmp_path / "headless", tied), (bare, gpt2), (kept, neox)):
        tokenizer.save_pretrained(folder)
        state = built(folder).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items()), folder


def save_images(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "unused"),
    [
        (lambda: ViTForImageClassification(ViTConfig(**IMAGES)), ""),
        (
            lambda: ViTModel(ViTConfig(**IMAGES)),
            "; it does not use all of its files: pooler.dense.bias, pooler.dense.weight",
        ),
        (lambda: ViTForMaskedImageModeling(ViTConfig(**IMAGES)), "; it does not use all of its files: decoder.0.bias"),
        (lambda: Dinov2Model(Dinov2Config(**IMAGES)), ""),
        (lambda: MLPForImageClassification(MLPConfig(image_size=8, num_channels=3, num_labels=5)), ""),
    ],
)
def test_a_classifiers_new_head_is_reported_and_all_else_is_the_files(
    make: Callable[[], Any], unused: str, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    source, notes = make(), []
    folder = save_images(source, tmp_path / "m")
    state = built(folder, 7, report=notes.append).state_dict()
    (line,) = notes
    assert "gets a new, randomly initialized head: classifier.bias, classifier.weight" + unused in line
    backbone = {n.removeprefix(f"{source.base_model_prefix}."): t for n, t in source.state_dict().items()}
    prefix = type(source).base_model_prefix
    for name, tensor in state.items():
        if not name.startswith("classifier"):
            assert torch.equal(tensor, backbone[name.removeprefix(f"{prefix}.")]), name


def test_a_classifiers_own_head_is_kept_silently(tmp_path: Path) -> None:
    source, notes = ViTForImageClassification(ViTConfig(**IMAGES)), []
    model = built(save_images(source, tmp_path / "m"), 5, report=notes.append)
    assert not notes and torch.equal(model.classifier.weight, source.classifier.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if ".1." not in n}, r"lack vit\.layers\.1\."),
        (lambda t: {f"x.{n}": v for n, v in t.items()}, r"lack classifier.* and 37 more; they hold|lack vit"),
        (lambda t: {**t, "vit.encoder.layer.2.output.dense.bias": torch.zeros(2)}, r"model lacks, (vit\.)?layers\.2"),
        (lambda t: {**t, "vit.layernorm.bias": torch.zeros(2)}, r"a different shape vit\.layernorm\.bias \(\[2\], not"),
        (lambda t: {n: v for n, v in t.items() if n != "classifier.bias"}, r"lack classifier\.bias"),
    ],
)  # fmt: skip
def test_of_a_classifier_the_head_alone_may_be_new(
    change: Callable[[Tensors], Tensors], message: str, tmp_path: Path
) -> None:
    """A head that is half the files' and half drawn is none of both."""
    source = save_images(ViTForImageClassification(ViTConfig(**IMAGES)), tmp_path / "m")
    with pytest.raises(ModelError, match=message):
        built(changed(source, tmp_path / "wrong", change), 5)


def test_adapters_are_read_whole_and_are_no_base(llama: Path, tmp_path: Path) -> None:
    adapted = get_peft_model(stored.read_model(llama), LoraConfig(r=2, target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = str(llama)
    adapted.save_pretrained(folder := tmp_path / "adapters")
    assert stored.read_model(folder) is not None
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(llama / name, folder / name)
    with pytest.raises(ModelError, match="contains adapters of another model: merge them"):
        built(folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, file)
    with pytest.raises(ModelError, match=f"differ in tensors: .*{gone}"):
        stored.read_model(folder)
    file.unlink()
    save_file(tensors, folder / "others.safetensors")
    with pytest.raises(FileNotFoundError, match=r"lacks adapter_model\.safetensors"):
        locations(folder)
