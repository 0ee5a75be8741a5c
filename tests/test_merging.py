"""Merges against NumPy, written from the papers' formulas, on every architecture; mismatches name the tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from sfa import machine, merging
from sfa.algorithm import SFA
from tests.toy import Regression, trainer, weights

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
MODELS: dict[str, Any] = {
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, **SMALL)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, **SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(vocab_size=100, num_key_value_heads=2, **SMALL)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=100, **T5)),
    "vit": lambda: ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=5, **SMALL)),
}
Vectors = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module", params=list(MODELS))
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two models; layers move by very different amounts."""
    root = tmp_path_factory.mktemp(request.param)
    found = []
    torch.manual_seed(0)
    model = MODELS[request.param]()
    origin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for i in range(3):
        if i:
            with torch.no_grad():
                for k, (name, p) in enumerate(model.named_parameters()):
                    p.copy_(origin[name] + torch.randn_like(p) * 10.0 ** (-(k % 5)))
        model.save_pretrained(root / str(i))
        found.append(root / str(i))
    return found


def read(folder: Path) -> Vectors:
    return {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def same(out: Path, expected: Vectors, tolerance: float = 1e-5) -> None:
    found = read(out)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=tolerance)
    AutoModel.from_pretrained(out)  # a whole model in Hugging Face format


def test_soup_is_the_mean(folders: list[Path], tmp_path: Path) -> None:
    merging.soup(folders, tmp_path)
    all_of_them = [read(folder) for folder in folders]
    same(tmp_path, {name: np.mean([model[name] for model in all_of_them], 0) for name in all_of_them[0]})


def test_task_arithmetic_adds_weighted_task_vectors(folders: list[Path], tmp_path: Path) -> None:
    merging.task_arithmetic(folders[0], folders[1:], [0.75, 0.4], tmp_path)
    base, one, two = map(read, folders)
    same(tmp_path, {n: base[n] + 0.75 * (one[n] - base[n]) + 0.4 * (two[n] - base[n]) for n in base})


def test_ties_trims_the_whole_vector_elects_signs_and_averages_what_agrees(folders: list[Path], tmp_path: Path) -> None:
    density, scale = 0.3, 0.8
    merging.ties(folders[0], folders[1:], [0.5, 0.5], tmp_path, density, scale)
    base, one, two = map(read, folders)
    names = sorted(base)
    flat = [np.concatenate([(m[n] - base[n]).ravel() for n in names]) for m in (one, two)]
    trimmed = []
    for vector in flat:
        kept = max(1, round(density * vector.size))
        least = np.sort(np.abs(vector))[-kept]
        trimmed.append(np.where(np.abs(vector) >= least, vector, 0))
    stacked = np.stack(trimmed)
    sign = np.sign(stacked.sum(0))
    agree = (np.sign(stacked) == sign) & (stacked != 0)
    mean = np.where(agree.any(0), (stacked * agree).sum(0) / np.maximum(agree.sum(0), 1), 0)
    expected, start = {}, 0
    for name in names:
        size = base[name].size
        expected[name] = base[name] + scale * mean[start : start + size].reshape(base[name].shape)
        start += size
    found = read(tmp_path)
    wrong = sum(int((np.abs(found[n] - expected[n]) > 1e-5).sum()) for n in names)
    assert wrong <= 2 * len(flat[0]) * 1e-5 + 2  # an entry at the threshold may fall on the other side by rounding
    trimmed_by_tensor = sum(int((np.abs(found[n] - base[n]) > 0).sum()) for n in names) / len(flat[0])
    assert 0.3 <= trimmed_by_tensor <= 0.6  # what one or both task vectors keep


def test_fisher_merging_weighs_by_information(folders: list[Path], tmp_path: Path) -> None:
    """Equation 15."""
    rng = np.random.default_rng(0)
    _, one, two = map(read, folders)
    information = [{n: rng.random(t.shape) * (rng.random(t.shape) > 0.2) for n, t in one.items()} for _ in range(2)]
    for i, tensors in enumerate(information):
        (tmp_path / f"fisher{i}").mkdir()
        save_file(
            {n: torch.tensor(t, dtype=torch.float32) for n, t in tensors.items()},
            tmp_path / f"fisher{i}" / "model.safetensors",
        )
    merging.fisher(folders[1:], [tmp_path / "fisher0", tmp_path / "fisher1"], [0.7, 0.3], tmp_path / "out")
    expected = {}
    for n in one:
        first, second = 0.7 * information[0][n], 0.3 * information[1][n]
        with np.errstate(invalid="ignore"):
            weighted = (first * one[n] + second * two[n]) / (first + second)
        expected[n] = np.where(first + second > 0, weighted, (one[n] + two[n]) / 2)
    same(tmp_path / "out", expected)


def test_an_average_after_training_is_bitwise_sfa_with_p_1(tmp_path: Path) -> None:
    theta_o, plain, merged = Regression(), Regression(), Regression()
    for model, algorithms in ((plain, []), (merged, [SFA(p=1, beta=0.3)])):
        fit = trainer(model, 5, algorithms, "adamw")  # type: ignore[arg-type]
        fit.fit()
        fit.close()
    for name, model in (("theta_o", theta_o), ("theta", plain)):
        (tmp_path / name).mkdir()
        save_file(weights(model), tmp_path / name / "model.safetensors")
    merging.average(tmp_path / "theta_o", tmp_path / "theta", 0.3, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(merged).items())


def test_mismatched_models_end_in_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2), "embedding": torch.zeros(10, 4)}
    for name, content in {
        "good": tensors,
        "missing": {"a": torch.zeros(2)},
        "vocabulary": {**tensors, "embedding": torch.zeros(11, 4)},
    }.items():
        (tmp_path / name).mkdir()
        save_file(content, tmp_path / name / "model.safetensors")
    with pytest.raises(ValueError, match=r"only .*good has embedding"):
        merging.soup([tmp_path / "good", tmp_path / "missing"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"embedding is \(10, 4\) in .*good and \(11, 4\) in .*vocabulary"):
        merging.soup([tmp_path / "good", tmp_path / "vocabulary"], tmp_path / "out")
    with pytest.raises(ValueError, match="2 models need as many weights, not 1"):
        merging.task_arithmetic(tmp_path / "good", [tmp_path / "good"] * 2, [1.0], tmp_path / "out")


@pytest.mark.parametrize("method", ["average", "soup", "task_arithmetic", "ties", "fisher"])
def test_a_merge_of_n_models_needs_less_memory_than_n_and_one(method: str, tmp_path: Path) -> None:
    """Peak of resident memory over what was there before, against (n+1)·4·N bytes of models of N = 8M parameters."""
    tensors, size = 16, 2**19
    folders = [tmp_path / str(i) for i in range(4)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        generator = torch.Generator().manual_seed(i)
        whole = {f"w{k}": torch.randn(size, generator=generator) for k in range(tensors)}
        save_file(whole, folder / "model.safetensors", {"format": "pt"})
    del whole
    base, *models = folders
    merges: dict[str, Any] = {
        "average": lambda: merging.average(base, models[0], 0.5, tmp_path / "out"),
        "soup": lambda: merging.soup(models, tmp_path / "out"),
        "task_arithmetic": lambda: merging.task_arithmetic(base, models, [0.3] * 3, tmp_path / "out"),
        "ties": lambda: merging.ties(base, models, [0.3] * 3, tmp_path / "out"),
        "fisher": lambda: merging.fisher(models, [base] * 3, [1.0] * 3, tmp_path / "out"),
    }
    machine.reset_peak()
    before = machine.peak()
    merges[method]()
    n = 2 if method == "average" else 3
    assert 0 < machine.peak() - before < (n + 1) * 4 * tensors * size
