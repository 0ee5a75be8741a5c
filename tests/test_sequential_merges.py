"""MagMax and OPCM against NumPy, written from the equations of their papers and merging model after model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sfa.methods import METHODS
from sfa.methods.base import Sources
from tests.folders import bare

SHAPES = {"a.weight": (6, 4), "b.weight": (3, 7), "embed_tokens.weight": (9, 4), "bias": (5,), "conv": (2, 2, 3)}
Vectors = dict[str, NDArray[np.float64]]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A base and three models at different distances."""
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    paths = []
    for i in range(4):
        moved = {name: tensor + 0.5 * i * rng.standard_normal(tensor.shape) for name, tensor in base.items()}
        paths.append(tmp_path / str(i))
        paths[-1].mkdir()
        tensors = {name: torch.tensor(tensor, dtype=torch.float32) for name, tensor in moved.items()}
        save_file(tensors, paths[-1] / "model.safetensors")
    return paths


def read(folder: Path) -> Vectors:
    return {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def same(out: Path, expected: Vectors) -> None:
    for name, tensor in read(out).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=1e-5)
    assert [file.name for file in out.iterdir()] == ["model.safetensors"]


def test_magmax_takes_the_largest_change_of_every_entry(folders: list[Path], tmp_path: Path) -> None:
    base, *models = folders
    METHODS["magmax"](scale=0.7).merge(Sources(models, base), tmp_path / "out")
    origin, *others = map(read, folders)
    expected = {}
    for name, start in origin.items():
        vectors = np.stack([model[name] - start for model in others])
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)[0]
        expected[name] = start + 0.7 * largest
    same(tmp_path / "out", expected)


def test_of_opposite_changes_magmax_takes_the_later_one(tmp_path: Path) -> None:
    base, first, second = (bare(tmp_path / name, a=[value]) for name, value in (("0", 0.0), ("1", 2.0), ("2", -2.0)))
    METHODS["magmax"](scale=1.0).merge(Sources([first, second], base), tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].tolist() == [-2.0]


def opcm(folders: list[Path], alpha: float) -> Vectors:
    """Algorithm 1 of the paper, with a full decomposition and the scale λ of every step."""
    base, *models = map(read, folders)
    vectors = [{name: model[name] - start for name, start in base.items()} for model in models]
    norms = [np.sqrt(sum((tensor**2).sum() for tensor in vector.values())) for vector in vectors]
    merged, scale = vectors[0], 1.0
    for t, vector in enumerate(vectors[1:], 2):
        added = {}
        for name, tensor in vector.items():
            if tensor.ndim == 2 and "embed" not in name:
                u, s, vt = np.linalg.svd(merged[name])
                inner = u.T @ tensor @ vt.T
                np.fill_diagonal(inner, 0)
                rank = int(np.argmax(np.cumsum(s) / s.sum() > alpha))
                inner[:rank, :rank] = 0
                added[name] = scale * merged[name] + u @ inner @ vt
            else:
                added[name] = scale * merged[name] + tensor
        scale = np.sqrt(sum((tensor**2).sum() for tensor in added.values())) / np.mean(norms[:t])
        merged = {name: tensor / scale for name, tensor in added.items()}
    return {name: start + merged[name] for name, start in base.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_opcm_adds_what_is_orthogonal_to_the_past(
    count: int, alpha: float, folders: list[Path], tmp_path: Path
) -> None:
    base, *models = folders[: count + 1]
    METHODS["opcm"](alpha=alpha).merge(Sources(models, base), tmp_path / "out")
    same(tmp_path / "out", opcm(folders[: count + 1], alpha))


def test_opcm_of_models_that_did_not_move_is_their_base(folders: list[Path], tmp_path: Path) -> None:
    base, moved, _, _ = folders
    METHODS["opcm"]().merge(Sources([base, base], base), tmp_path / "still")
    same(tmp_path / "still", read(base))
    METHODS["opcm"]().merge(Sources([base, moved], base), tmp_path / "one")  # half of the mean norm, and all its own
    origin, theta = read(base), read(moved)
    same(tmp_path / "one", {name: (origin[name] + theta[name]) / 2 for name in origin})


def test_an_opcm_that_fails_leaves_nothing(folders: list[Path], tmp_path: Path) -> None:
    base, first, _, _ = folders
    tensors = load_file(first / "model.safetensors")
    tensors["bias"][0] = torch.nan
    (tmp_path / "wrong").mkdir()
    save_file(tensors, tmp_path / "wrong" / "model.safetensors")
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "out", tmp_path / "there"):
        with pytest.raises(ValueError, match=r"bias in .*wrong/model.safetensors is not finite"):
            METHODS["opcm"]().merge(Sources([first, tmp_path / "wrong"], base), out)
    assert not (tmp_path / "out").exists() and not list((tmp_path / "there").iterdir())
