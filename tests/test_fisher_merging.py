"""Fisher merging weighs information exactly, however small it is, and compares that of tasks on request."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from sfa import merging
from sfa.config import ConfigError, load
from sfa.stages.plan import plan
from tests.folders import bare
from tests.test_methods import QUICKSTART

THETAS = [[1.5, -2.25, 0.125, 7.0, 1.0, -3.0], [0.5, 1.75, 3.0, -7.0, 2.0, 5.0], [-1.0, 4.5, 9.0, 0.5, 6.0, 1.0]]


SCALES = [1.0, 1e-20, 1e-30, 1e-38, 1e-41, 3e-43, 1e-44, 1e30]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.3, 0.5], [1e-30, 2e-30, 5e-30], [1e30, 2e30, 5e30]])
def test_fisher_merging_is_exact_however_small_or_large_the_information(
    scale: float, weights: list[float], tmp_path: Path
) -> None:
    """Against fractions of what the files hold; the last two entries have no information, and that of one model."""
    information = [[1.0, 3.0, 0.5, 2.0, 0.0, 0.0], [2.0, 1.0, 8.0, 0.0, 0.0, 1.0], [4.0, 1.0, 1.0, 3.0, 0.0, 0.0]]
    models, fishers = [], []
    for i, (theta, row) in enumerate(zip(THETAS, information, strict=True)):
        models.append(bare(tmp_path / f"m{i}", a=theta))
        fishers.append(bare(tmp_path / f"f{i}", a=[value * scale for value in row]))
    merging.fisher(models, fishers, weights, tmp_path / "out")
    held = [[Fraction(x) for x in load_file(f / "model.safetensors")["a"].tolist()] for f in fishers]
    merged = load_file(tmp_path / "out" / "model.safetensors")["a"]
    for k in range(6):
        top = sum(Fraction(w) * f[k] * Fraction(t[k]) for w, f, t in zip(weights, held, THETAS, strict=True))
        bottom = sum(Fraction(w) * f[k] for w, f in zip(weights, held, strict=True))
        exact = top / bottom if bottom else sum(Fraction(t[k]) for t in THETAS) / 3
        assert float(merged[k]) == float(np.float32(float(exact))), k


def test_normalized_fisher_information_does_not_depend_on_the_size_of_gradients(tmp_path: Path) -> None:
    """The second task's gradients are a thousand times as large; its information counts no more for that."""
    first, second = bare(tmp_path / "one", a=[1.0, 2.0], b=[3.0]), bare(tmp_path / "two", a=[3.0, 6.0], b=[5.0])
    information = {"a": [3.0, 0.0], "b": [4.0]}
    bare(tmp_path / "f1", **information)
    merged = {}
    for scale in (1.0, 1e6, 1e-20, 1e-38):
        scaled = {name: [value * scale for value in values] for name, values in information.items()}
        fishers = [tmp_path / "f1", bare(tmp_path / f"f{scale}", **scaled)]
        for normalize in (False, True):
            out = tmp_path / f"out{scale}{normalize}"
            merging.fisher([first, second], fishers, [0.75, 0.25], out, normalize)
            merged[scale, normalize] = load_file(out / "model.safetensors")
        # Of the second entry neither knows anything: each has the floor, and the weights are as given.
        assert merged[scale, True]["a"].tolist() == pytest.approx([1.5, 3.0], rel=1e-6)
        assert merged[scale, True]["b"].tolist() == pytest.approx([3.5], rel=1e-6)
    assert merged[1e6, False]["b"].tolist() == pytest.approx([5.0], rel=1e-4)


def test_the_norm_is_that_of_the_whole_model_and_the_floor_a_millionth_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    theta = [{n: rng.standard_normal(size) for n, size in (("a", (40, 3)), ("b", (7,)))} for _ in range(2)]
    information = [
        {n: 10.0 ** rng.uniform(-12, 0, t.shape) * 50**i for n, t in tensors.items()} for i, tensors in enumerate(theta)
    ]
    folders = [bare(tmp_path / f"m{i}", **tensors) for i, tensors in enumerate(theta)]
    fishers = [bare(tmp_path / f"f{i}", **tensors) for i, tensors in enumerate(information)]
    merging.fisher(folders, fishers, [0.4, 0.6], tmp_path / "out", normalize=True)
    norms = [np.sqrt(sum((t.astype(np.float64) ** 2).sum() for t in tensors.values())) for tensors in information]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("a", "b"):
        weighted = [w * np.maximum(f[name] / n, 1e-6) for w, f, n in zip((0.4, 0.6), information, norms, strict=True)]
        expected = sum(w * t[name] for w, t in zip(weighted, theta, strict=True)) / sum(weighted)
        np.testing.assert_allclose(merged[name].numpy(), expected, rtol=1e-5)
        assert (weighted[0] == 0.4e-6).any() and (weighted[0] > 0.4e-6).any()


def test_information_of_zeros_is_all_floor(tmp_path: Path) -> None:
    first, second = bare(tmp_path / "one", a=[1.0]), bare(tmp_path / "two", a=[3.0])
    none = bare(tmp_path / "none", a=[0.0])
    merging.fisher([first, second], [none, none], [0.75, 0.25], tmp_path / "out", normalize=True)
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [1.5]
    merging.fisher([first, second], [none, none], [0.75, 0.25], tmp_path / "plain")
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
def test_weights_that_have_no_mean_are_reported(weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(QUICKSTART, ["method=fisher", f"fisher.weights={weights}"])
