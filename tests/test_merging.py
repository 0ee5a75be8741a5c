"""Merges against NumPy, written from the papers' formulas, on every architecture; mismatches name the tensor."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_state_dicts
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
from sfa.methods import METHODS
from sfa.methods.base import Sources
from sfa.tensors import write
from sfa.threshold import threshold
from sfa.trainers.composer import SFA
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
    paths = []
    torch.manual_seed(0)
    model = MODELS[request.param]()
    origin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for i in range(3):
        if i:
            with torch.no_grad():
                for k, (name, p) in enumerate(model.named_parameters()):
                    p.copy_(origin[name] + torch.randn_like(p) * 10.0 ** (-(k % 5)))
        model.save_pretrained(root / str(i))
        paths.append(root / str(i))
    return paths


def read(folder: Path) -> Vectors:
    return {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def same(out: Path, expected: Vectors, tolerance: float = 1e-5) -> None:
    actual = read(out)
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=tolerance)
    AutoModel.from_pretrained(out)  # a whole model in Hugging Face format


def test_soup_is_the_mean(folders: list[Path], tmp_path: Path) -> None:
    merging.soup(folders, tmp_path)
    all_of_them = [read(folder) for folder in folders]
    same(tmp_path, {name: np.mean([model[name] for model in all_of_them], 0) for name in all_of_them[0]})


def test_task_arithmetic_adds_weighted_task_vectors(folders: list[Path], tmp_path: Path) -> None:
    merging.task_arithmetic(folders[0], folders[1:], [0.75, 0.4], tmp_path)
    base, first, second = map(read, folders)
    same(tmp_path, {n: base[n] + 0.75 * (first[n] - base[n]) + 0.4 * (second[n] - base[n]) for n in base})


def test_ties_trims_the_whole_vector_elects_signs_and_averages_what_agrees(folders: list[Path], tmp_path: Path) -> None:
    density, scale = 0.3, 0.8
    merging.ties(folders[0], folders[1:], [0.5, 0.5], tmp_path, density, scale)
    base, first, second = map(read, folders)
    names = sorted(base)
    flat = [np.concatenate([(m[n] - base[n]).ravel() for n in names]) for m in (first, second)]
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
    tensors = read(tmp_path)
    wrong = sum(int((np.abs(tensors[n] - expected[n]) > 1e-5).sum()) for n in names)
    assert wrong <= 2 * len(flat[0]) * 1e-5 + 2  # an entry at the threshold may fall on the other side by rounding
    trimmed_by_tensor = sum(int((np.abs(tensors[n] - base[n]) > 0).sum()) for n in names) / len(flat[0])
    assert 0.3 <= trimmed_by_tensor <= 0.6  # what one or both task vectors keep


@pytest.mark.parametrize("density", [0.0, 1e-9, 0.001, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "scales", "few values", "one value", "zeros", "neighbours", "extremes"])
def test_the_threshold_is_exactly_that_of_sorting(kind: str, density: float) -> None:
    rng = np.random.default_rng(0)
    vector = {
        "normal": rng.standard_normal(10007),
        "scales": rng.standard_normal(10007) * 10.0 ** rng.integers(-42, 30, 10007),  # subnormal numbers too
        "few values": rng.choice([-2.5, 0.0, 1.0, 2.5], 10007),
        "one value": np.full(10007, -0.1),
        "zeros": np.full(10007, -0.0),
        "neighbours": (np.arange(10007) + 2**24 - 10007).astype(np.float64) * rng.choice([-1, 1], 10007),
        "extremes": rng.choice([0.0, 1.0, np.inf, np.nan, np.finfo(np.float32).max], 10007),
    }[kind].astype(np.float32)
    kept = max(1, round(density * len(vector)))
    expected = np.partition(np.abs(vector), len(vector) - kept)[len(vector) - kept]
    least = threshold(lambda: (torch.from_numpy(part.copy()) for part in np.array_split(vector, 7)), density)
    np.testing.assert_array_equal(np.float32(least), expected)


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_that_is_no_share_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="a density is from 0 to 1"):
        threshold(lambda: [torch.ones(3)], density)


def test_fisher_merging_weighs_by_information(folders: list[Path], tmp_path: Path) -> None:
    """Equation 15."""
    rng = np.random.default_rng(0)
    _, start, end = map(read, folders)
    information = [{n: rng.random(t.shape) * (rng.random(t.shape) > 0.2) for n, t in start.items()} for _ in range(2)]
    for i, tensors in enumerate(information):
        (tmp_path / f"fisher{i}").mkdir()
        save_file(
            {n: torch.tensor(t, dtype=torch.float32) for n, t in tensors.items()},
            tmp_path / f"fisher{i}" / "model.safetensors",
        )
    merging.fisher(folders[1:], [tmp_path / "fisher0", tmp_path / "fisher1"], [0.7, 0.3], tmp_path / "out")
    expected = {}
    for n in start:
        first, second = 0.7 * information[0][n], 0.3 * information[1][n]
        with np.errstate(invalid="ignore"):
            weighted = (first * start[n] + second * end[n]) / (first + second)
        expected[n] = np.where(first + second > 0, weighted, (start[n] + end[n]) / 2)
    same(tmp_path / "out", expected)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_slerp_turns_each_tensor_along_the_arc(beta: float, folders: list[Path], tmp_path: Path) -> None:
    _, old, new = folders
    METHODS["slerp"](beta=beta).merge(Sources([old, new]), tmp_path / "out")
    theta_o, theta = read(old), read(new)
    expected = {}
    for name, start in theta.items():
        a, b = start.ravel(), theta_o[name].ravel()
        norms = max(float(np.linalg.norm(a)), 1e-30), max(float(np.linalg.norm(b)), 1e-30)
        cosine = float(np.clip(a @ b / (norms[0] * norms[1]), -1, 1))
        angle = np.arccos(cosine)
        shares = (1 - beta, beta)  # along the line, where both point the same way
        if abs(cosine) <= 0.9995:
            shares = (np.sin((1 - beta) * angle) / np.sin(angle), np.sin(beta * angle) / np.sin(angle))
        expected[name] = (shares[0] * a + shares[1] * b).reshape(start.shape)
    same(tmp_path / "out", expected, 1e-4)


def test_dare_drops_entries_by_the_seed_and_rescales_the_rest(folders: list[Path], tmp_path: Path) -> None:
    base, model, _ = folders
    dare = METHODS["dare"](weights=[1.0], density=0.5)
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        dare.merge(Sources([model], base, seed=seed), tmp_path / out)
    origin, moved = read(base), read(model)
    result, again, other = (read(tmp_path / out) for out in "abc")
    kept, count = 0, 0
    for name, start in origin.items():
        vector, merged = moved[name] - start, result[name] - start
        np.testing.assert_array_equal(result[name], again[name])
        there = np.abs(merged) > 1e-12
        if not there.any():
            continue
        factor = np.abs(vector).sum() / np.abs(vector[there]).sum()  # the same L1 norm, tensor by tensor
        np.testing.assert_allclose(merged[there], factor * vector[there], rtol=1e-2, atol=1e-6)
        kept, count = kept + int(there.sum()), count + there.size
    assert 0.45 < kept / count < 0.55
    assert any(not np.array_equal(result[name], other[name]) for name in result)
    METHODS["dare"](weights=[1.0], density=1.0).merge(Sources([model], base), tmp_path / "all")
    same(tmp_path / "all", moved, 1e-5)


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
    result = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(result[name], tensor) for name, tensor in weights(merged).items())


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
    with pytest.raises(ValueError, match=r"embedding is \(10, 4\) in .*good and \(11, 4\) in .*vocabulary"):
        merging.ties(tmp_path / "good", [tmp_path / "vocabulary"], [1.0], tmp_path / "out")
    with pytest.raises(ValueError, match=r"only .*good has embedding"):
        merging.fisher([tmp_path / "good"], [tmp_path / "missing"], [1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


AWKWARD = {"z": (3, 5), "a": (), 'ü "\\': (0, 4), "m.0": (7,), "large": (3, 100_003)}  # the last is more than a piece


def awkward(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in AWKWARD.items()}


def test_a_file_is_written_byte_for_byte_as_safetensors_does(tmp_path: Path) -> None:
    tensors = awkward(0)
    save_file(tensors, tmp_path / "expected", {"format": "pt"})
    write(tmp_path / "found", AWKWARD, lambda name: tensors[name].reshape(-1).split(10))
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_file_that_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("before")
    tensors = {**awkward(0), "z": torch.zeros(4)}  # the last but one, too short
    with pytest.raises(ValueError, match=r"z must have shape \(3, 5\), but its pieces have 4 entries"):
        write(file, AWKWARD, lambda name: [tensors[name]])
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert file.read_text() == "before"


@pytest.mark.parametrize("count", [2, 5])
def test_a_model_of_several_files_is_merged_like_one_of_a_single_file(count: int, tmp_path: Path) -> None:
    """The base is split otherwise than the models, whose tensors are bfloat16."""
    folders = []
    for i in range(count + 1):
        tensors = {name: tensor if i == 0 else tensor.bfloat16() for name, tensor in awkward(i).items()}
        whole, split = tmp_path / "whole" / str(i), tmp_path / "split" / str(i)
        for folder in (whole, split):
            folder.mkdir(parents=True)
        save_file(tensors, whole / "model.safetensors")
        names = list(tensors)
        parts = [names[:2], names[2:]] if i == 0 else [names[:1], names[1:3], names[3:]]
        places = {}
        for k, part in enumerate(parts, 1):
            shard = f"model-{k:05d}-of-{len(parts):05d}.safetensors"
            save_file({name: tensors[name] for name in part}, split / shard)
            places |= dict.fromkeys(part, shard)
        (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        folders.append(str(i))
    for kind in ("whole", "split"):
        base, *models = (tmp_path / kind / name for name in folders)
        merging.ties(base, models, [0.5] * count, tmp_path / kind / "out", 0.3)
    out = tmp_path / "split" / "out"
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == [*files, "model.safetensors.index.json"]
    merged = {name: tensor for file in files for name, tensor in load_file(out / file).items()}
    expected = load_file(tmp_path / "whole" / "out" / "model.safetensors")
    assert merged.keys() == expected.keys() == AWKWARD.keys()
    for name, tensor in expected.items():
        assert merged[name].dtype == torch.float32
        assert merged[name].shape == AWKWARD[name]
        assert torch.equal(merged[name], tensor)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_merging_piece_by_piece_is_bitwise_merging_whole_tensors(count: int, tmp_path: Path) -> None:
    """mergekit on whole tensors and all threads; sums over many models depend on where a vector of the CPU starts."""
    models = [awkward(i) for i in range(count + 1)]
    for i, tensors in enumerate(models):
        (tmp_path / str(i)).mkdir()
        save_file(tensors, tmp_path / str(i) / "model.safetensors")
    weights = [0.1 + 0.07 * i for i in range(count)]
    folders = [tmp_path / str(i) for i in range(count + 1)]
    threads = torch.get_num_threads()
    merging.soup(folders[1:], tmp_path / "soup")
    merging.task_arithmetic(folders[0], folders[1:], weights, tmp_path / "arithmetic")
    assert torch.get_num_threads() == threads
    soup = merge_state_dicts(models[1:], "linear", parameters={"weight": 1.0}, dtype=torch.float32)
    named = dict(enumerate(models))
    parameters = {"weight": dict(enumerate(weights, 1)), "normalize": False}
    arithmetic = merge_state_dicts(named, "task_arithmetic", base=0, parameters=parameters, dtype=torch.float32)
    for folder, expected in (("soup", soup), ("arithmetic", arithmetic)):
        result = load_file(tmp_path / folder / "model.safetensors")
        assert all(torch.equal(result[name], expected[name]) for name in AWKWARD)


def test_a_merge_does_not_import_composer() -> None:
    """It takes longer than the merge of a model of 135M parameters."""
    code = "import sys, sfa.merging; sys.exit('composer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    (tmp_path / "squares").mkdir()
    squares = {name: tensor.square() for name, tensor in whole.items()}
    save_file(squares, tmp_path / "squares" / "model.safetensors", {"format": "pt"})
    del whole, squares
    base, *models = folders
    merges: dict[str, Any] = {
        "average": lambda: merging.average(base, models[0], 0.5, tmp_path / "out"),
        "soup": lambda: merging.soup(models, tmp_path / "out"),
        "task_arithmetic": lambda: merging.task_arithmetic(base, models, [0.3] * 3, tmp_path / "out"),
        "ties": lambda: merging.ties(base, models, [0.3] * 3, tmp_path / "out"),
        "fisher": lambda: merging.fisher(models, [tmp_path / "squares"] * 3, [1.0] * 3, tmp_path / "out"),
    }
    import mergekit.merge_methods.api  # noqa: F401  else its own memory would be counted

    machine.reset_peak()
    before = machine.peak()
    merges[method]()
    n = 2 if method == "average" else 3
    assert before > 0  # pages that are free already may serve, so that the peak need not grow
    assert machine.peak() - before < (n + 1) * 4 * tensors * size
