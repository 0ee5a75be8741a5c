"""Merges that are mergekit's, streamed: bit for bit as mergekit merges whole models, and as their papers say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_state_dicts, merge_tensors
from safetensors.torch import load_file, save_file

from sfa.config import ConfigError, load
from sfa.methods import METHODS
from sfa.methods.base import Sources

SHAPES = {
    "matrix": (40, 30),
    "vector": (50,),
    "conv": (4, 3, 3, 3),
    "one": (1,),
    "column": (20, 1),
    "gray": (4, 1, 3, 3),
}
WEIGHTS = [0.4, 0.9]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def models(tmp_path: Path) -> list[Tensors]:
    """A base and two models, also saved in folders 0 to 2."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(3):
        made.append({name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()})
        (tmp_path / str(i)).mkdir()
        save_file(made[-1], tmp_path / str(i) / "model.safetensors")
    return made


def merged(name: str, folder: Path, **settings: Any) -> Tensors:
    method = METHODS[name](**settings)
    method.merge(Sources([folder / "1", folder / "2"], folder / "0", seed=3), folder / "out")
    return load_file(folder / "out" / "model.safetensors")


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_is_mergekits(filter_wise: bool, models: list[Tensors], tmp_path: Path) -> None:
    found = merged("model_stock", tmp_path, filter_wise=filter_wise)
    expected = merge_state_dicts(
        dict(enumerate(models)), "model_stock", base=0, parameters={"filter_wise": filter_wise}, dtype=torch.float32
    )
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


def test_model_stock_draws_the_mean_to_the_base_by_the_angle(models: list[Tensors], tmp_path: Path) -> None:
    """Equation 5 of the paper for two models: t = 2·cos φ / (1 + cos φ)."""
    found = merged("model_stock", tmp_path)
    for name, tensor in found.items():
        base, first, second = (model[name].double().numpy().ravel() for model in models)
        a, b = first - base, second - base
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        t = 2 * cosine / (1 + cosine) if abs(1 + cosine) > 1e-6 else 0.0
        expected = t * (first + second) / 2 + (1 - t) * base
        np.testing.assert_allclose(tensor.double().numpy().ravel(), expected, rtol=0, atol=1e-5)


def test_breadcrumbs_is_mergekits(models: list[Tensors], tmp_path: Path) -> None:
    found = merged("breadcrumbs", tmp_path, density=0.7, gamma=0.1, weights=WEIGHTS)
    parameters = {"weight": {1: 0.4, 2: 0.9}, "density": 0.7, "gamma": 0.1}
    expected = merge_state_dicts(
        dict(enumerate(models)), "breadcrumbs", base=0, parameters=parameters, dtype=torch.float32
    )
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


def test_breadcrumbs_keeps_the_middle_magnitudes_of_each_tensor(models: list[Tensors], tmp_path: Path) -> None:
    found = merged("breadcrumbs", tmp_path, density=0.7, gamma=0.1, weights=WEIGHTS)
    base, expected = models[0]["matrix"].double().numpy(), models[0]["matrix"].double().numpy().copy()
    for weight, model in zip(WEIGHTS, models[1:], strict=True):
        vector = model["matrix"].double().numpy() - base
        ranks = np.abs(vector).ravel().argsort().argsort().reshape(vector.shape)  # 1200 entries, the smallest first
        expected += weight * vector * ((ranks >= 240) & (ranks < 1080))
    np.testing.assert_allclose(found["matrix"].double().numpy(), expected, rtol=0, atol=1e-5)


def test_della_is_mergekits_tensor_by_tensor(models: list[Tensors], tmp_path: Path) -> None:
    found = merged("della", tmp_path, density=0.6, epsilon=0.2, scale=1.3, weights=WEIGHTS)
    parameters = {"weight": WEIGHTS, "density": 0.6, "epsilon": 0.2, "lambda": 1.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name in sorted({*SHAPES} - {"one"}):
            tensors = [model[name] for model in models]
            if name in ("column", "gray"):  # a row of one entry has no ranks, and mergekit fails on it
                tensors = [tensor.flatten() for tensor in tensors]
            parameters_of = {**parameters, "weight": {1: WEIGHTS[0], 2: WEIGHTS[1]}}
            expected = merge_tensors(
                tensors, "della", parameters=parameters_of, ids=[0, 1, 2], base_index=0, dtype=torch.float32
            )
            assert torch.equal(found[name].flatten(), expected.flatten()), name


def test_della_keeps_large_entries_more_often(tmp_path: Path) -> None:
    """Of 200 rows, each entry's share of rows that keep it rises with its rank from density − ε to density + ε."""
    magnitudes = torch.arange(1.0, 51).repeat(400, 1)
    for name, value in (("0", torch.zeros_like(magnitudes)), ("1", magnitudes)):
        (tmp_path / name).mkdir()
        save_file({"a": value}, tmp_path / name / "model.safetensors")
    METHODS["della"](density=0.5, epsilon=0.3).merge(Sources([tmp_path / "1"], tmp_path / "0"), tmp_path / "out")
    kept = (load_file(tmp_path / "out" / "model.safetensors")["a"] != 0).double().mean(0).numpy()
    assert np.abs(kept - np.linspace(0.2, 0.8, 50)).max() < 5 * (0.25 / 400) ** 0.5


@pytest.mark.parametrize("name", ["dare", "della"])
def test_what_is_dropped_depends_on_the_seed_alone(name: str, models: list[Tensors], tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(int(out, 16))
        METHODS[name]().merge(Sources([tmp_path / "1"], tmp_path / "0", seed=seed), tmp_path / out)
    a, b, c = (load_file(tmp_path / out / "model.safetensors")["matrix"] for out in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_density_that_leaves_della_no_room_is_an_error_of_the_config(tmp_path: Path) -> None:
    quickstart = Path(__file__).parent.parent / "yamls" / "quickstart.yaml"
    with pytest.raises(ConfigError, match=r"della.epsilon: density ± epsilon must lie between 0 and 1, not 0.9 ± 0.15"):
        load(quickstart, ["method=della", "della.density=0.9"])
    assert load(quickstart, ["method=della", "della.density=1"]).method == "della"
