"""Merges of models after training, from folder to folder, one tensor in memory at a time.

Soup, Task Arithmetic and TIES are mergekit's, in float32. TIES is trimmed here before, over the whole task vector as in
its paper; mergekit trims each tensor for itself. The average of SFA and WiSE-FT is SFA's own, and Fisher merging is
equation 15.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfa.weights import locations

Rule = Callable[[str, list[Tensor]], Tensor]


def average(theta_o: Path, theta: Path, beta: float, out: Path) -> None:
    """β·θ_o + (1−β)·θ, bit for bit as :class:`sfa.SFA` merges on the same device (Algorithm 1)."""

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        old, new = tensors
        torch._foreach_lerp_([new], [old], beta)
        return new

    merge([theta_o, theta], rule, out)


def soup(models: Sequence[Path], out: Path) -> None:
    """The mean of models (Wortsman et al., 2022a)."""

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        mean: Tensor = merge_tensors(
            tensors, "linear", parameters={"weight": 1.0, "normalize": True}, dtype=torch.float32
        )
        return mean

    merge(models, rule, out)


def task_arithmetic(base: Path, models: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """base + Σ wᵢ(θᵢ − base) (Ilharco et al., 2023)."""
    named = _weights(weights, models)

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        return _from_base(tensors, "task_arithmetic", {"weight": named, "normalize": False})

    merge([base, *models], rule, out)


def ties(
    base: Path, models: Sequence[Path], weights: Sequence[float], out: Path, density: float = 0.2, scale: float = 1.0
) -> None:
    """base + λ·(disjoint mean of the trimmed task vectors, weighted) (Yadav et al., 2023).

    Args:
        base: the model that all were trained from.
        models: folders of θᵢ.
        weights: wᵢ, of each task vector in the election of signs and in the mean.
        out: folder of the result.
        density: share of each whole task vector that is kept, the entries of largest magnitude.
        scale: λ.
    """
    named = _weights(weights, models)
    smallest = [_threshold(base, model, density) for model in models]

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        origin, *others = tensors
        kept = [
            torch.where((theta - origin).abs() >= least, theta, origin)
            for theta, least in zip(others, smallest, strict=True)
        ]
        parameters = {"weight": named, "density": 1.0, "normalize": True, "lambda": scale}
        return _from_base([origin, *kept], "ties", parameters)

    merge([base, *models], rule, out)


def fisher(models: Sequence[Path], fishers: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Σ λᵢFᵢθᵢ / Σ λᵢFᵢ (Matena & Raffel, 2022; eq. 15); where no model has any information, their mean. ``fishers``
    are folders with tensors named as the models' are."""
    found = [locations(folder) for folder in fishers]

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        top, bottom = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[0])
        for theta, files, weight in zip(tensors, found, weights, strict=True):
            with safe_open(files[name], framework="pt") as stream:
                information = stream.get_tensor(name).float() * weight
            top.addcmul_(information, theta)
            bottom += information
        return torch.where(bottom > 0, top / bottom, torch.stack(tensors).mean(0))

    merge(models, rule, out)


def merge(sources: Sequence[Path], rule: Rule, out: Path) -> None:
    """Writes a model folder like the first of ``sources``, with every tensor as ``rule`` makes it of theirs (float32).

    At most one file of the model and one tensor of each source are in memory.

    Raises:
        ValueError: the models differ in tensors or shapes; names the first tensor in which they do.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = [locations(source) for source in sources]
    for source, files in zip(sources[1:], found[1:], strict=True):
        odd = sorted(found[0].keys() ^ files.keys())
        if odd:
            side = sources[0] if odd[0] in found[0] else source
            raise ValueError(f"{sources[0]} and {source} cannot be merged: only {side} has {odd[0]}")
    for file in sorted(sources[0].iterdir()):
        if file.suffix == ".safetensors":
            names = [name for name, where in found[0].items() if where == file]
            save_file({name: rule(name, list(_read(name, found))) for name in names}, out / file.name, {"format": "pt"})
        elif file.is_file():
            shutil.copyfile(file, out / file.name)


def _read(name: str, found: Sequence[dict[str, Path]]) -> Iterator[Tensor]:
    shape = None
    for files in found:
        with safe_open(files[name], framework="pt") as stream:
            tensor = stream.get_tensor(name).float()
        if shape is not None and tensor.shape != shape:
            raise ValueError(
                f"the models cannot be merged: {name} is {tuple(shape)} in {next(iter(found[0].values())).parent} and "
                f"{tuple(tensor.shape)} in {files[name].parent}"
            )
        shape = tensor.shape
        yield tensor


def _from_base(tensors: list[Tensor], method: str, parameters: dict[str, object]) -> Tensor:
    ids = ["base", *(str(i) for i in range(1, len(tensors)))]
    merged: Tensor = merge_tensors(tensors, method, parameters=parameters, ids=ids, base_index=0, dtype=torch.float32)
    return merged


def _weights(weights: Sequence[float], models: Sequence[Path]) -> dict[str, float]:
    if len(weights) != len(models):
        raise ValueError(f"{len(models)} models need as many weights, not {len(weights)}")
    return {str(i): float(weight) for i, weight in enumerate(weights, 1)}


def _threshold(base: Path, model: Path, density: float) -> float:
    """The magnitude of the smallest entry of θ − base that is kept; 4 bytes a parameter in memory."""
    found = [locations(base), locations(model)]
    moved, start = np.empty(sum(_sizes(base)), np.float32), 0
    for name in found[0]:
        origin, theta = _read(name, found)
        moved[start : start + theta.numel()] = (theta - origin).abs_().flatten().numpy()
        start += theta.numel()
    kept = max(1, round(density * len(moved)))
    moved.partition(len(moved) - kept)  # in place
    return float(moved[len(moved) - kept])


def _sizes(folder: Path) -> Iterator[int]:
    for name, file in locations(folder).items():
        with safe_open(file, framework="pt") as stream:
            yield math.prod(stream.get_slice(name).get_shape())
