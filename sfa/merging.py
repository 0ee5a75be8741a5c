"""Merges of models after training, from folder to folder, one tensor of each model in memory at a time.

Weights are merged, buffers are not: running statistics become the mean of those of the models that were trained, and
whole numbers are the last model's. Of an average with θ_o these are θ's own, as in training.

Soup, Task Arithmetic and TIES are mergekit's, in float32. TIES is trimmed here before, over the whole task vector as in
its paper; mergekit trims each tensor for itself. The average of SFA and WiSE-FT is SFA's own, and Fisher merging is
equation 15.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_tensors
from torch import Tensor

from sfa.tensors import WHOLE_NUMBERS, Shape, buffers, kinds, locations, read, shapes, stored, write
from sfa.threshold import Part, threshold

Rule = Callable[[list[Tensor]], Tensor]
# Entries that are merged at a time. What is computed of them stays in a core's cache; and as whole vectors of the CPU,
# they are merged bit for bit as in their whole tensor, even where a sum over many models depends on that.
PIECE = 1 << 18


def average(theta_o: Path, theta: Path, beta: float, out: Path) -> None:
    """β·θ_o + (1−β)·θ, bit for bit as :class:`sfa.SFA` merges on the same device (Algorithm 1)."""

    def rule(tensors: list[Tensor]) -> Tensor:
        old, new = tensors
        torch._foreach_lerp_([new], [old], beta)
        return new

    merge([theta_o, theta], rule, out, base=True)


def soup(models: Sequence[Path], out: Path) -> None:
    """The mean of models (Wortsman et al., 2022a)."""

    def rule(tensors: list[Tensor]) -> Tensor:
        mean: Tensor = merge_tensors(
            tensors, "linear", parameters={"weight": 1.0, "normalize": True}, dtype=torch.float32
        )
        return mean

    merge(models, rule, out)


def task_arithmetic(base: Path, models: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """base + Σ wᵢ(θᵢ − base) (Ilharco et al., 2023)."""
    named = _weights(weights, models)

    def rule(tensors: list[Tensor]) -> Tensor:
        return _from_base(tensors, "task_arithmetic", {"weight": named, "normalize": False})

    merge([base, *models], rule, out, base=True)


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
    (origin_files, *others_files), _ = _together([base, *models])
    smallest = [_threshold(origin_files, files, density) for files in others_files]

    def rule(tensors: list[Tensor]) -> Tensor:
        origin, *others = tensors
        kept = [
            torch.where((theta - origin).abs() >= least, theta, origin)
            for theta, least in zip(others, smallest, strict=True)
        ]
        parameters = {"weight": named, "density": 1.0, "normalize": True, "lambda": scale}
        return _from_base([origin, *kept], "ties", parameters)

    merge([base, *models], rule, out, base=True)


def fisher(models: Sequence[Path], fishers: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Σ λᵢFᵢθᵢ / Σ λᵢFᵢ (Matena & Raffel, 2022; eq. 15); where no model has any information, their mean. ``fishers``
    are folders with tensors named as the models' are."""

    def rule(tensors: list[Tensor]) -> Tensor:
        thetas, informations = tensors[: len(models)], tensors[len(models) :]
        top, bottom = torch.zeros_like(thetas[0]), torch.zeros_like(thetas[0])
        for theta, information, weight in zip(thetas, informations, weights, strict=True):
            weighted = information * weight
            top.addcmul_(weighted, theta)
            bottom += weighted
        return torch.where(bottom > 0, top / bottom, torch.stack(thetas).mean(0))

    merge(models, rule, out, beside=fishers)


def merge(sources: Sequence[Path], rule: Rule, out: Path, beside: Sequence[Path] = (), base: bool = False) -> None:
    """Writes a model folder like the first of ``sources``, with every weight as ``rule`` makes it of theirs (float32).

    One tensor of each source is in memory, and a piece of what is made of them: a file is written as they are made.

    Args:
        sources: folders of models with the same tensors.
        rule: makes a flat piece of a tensor, of the same piece of it in all ``sources``, then in all ``beside``. It
            works on each entry for itself.
        out: folder of the result.
        beside: folders that hold, among others, tensors of the same names and shapes.
        base: the first of ``sources`` is not merged itself, but what the others were trained from.

    Raises:
        ValueError: the folders differ in tensors or shapes, and nothing was written; names the first tensor in which
            they do.
    """
    found, sizes = _together(sources, beside)
    trained = found[1 if base else 0 : len(sources)]
    whole = {name: kind for name, kind in kinds(trained[-1]).items() if kind in WHOLE_NUMBERS}
    statistics = buffers(trained[-1]) - whole.keys()

    def pieces(name: str) -> Iterator[Tensor]:
        if name in whole:
            yield stored(trained[-1][name], name)
        elif name in statistics:
            yield torch.stack([read(files[name], name) for files in trained]).mean(0)
        else:
            yield from map(rule, _pieces(name, found))

    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(sources[0].iterdir()):
        if file.suffix == ".safetensors":
            own = {name: sizes[name] for name, where in found[0].items() if where == file}
            with _one_thread():
                write(out / file.name, own, pieces, {name: kind for name, kind in whole.items() if name in own})
        elif file.is_file():
            shutil.copyfile(file, out / file.name)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A piece is too small to be shared: threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pieces(name: str, files_of: Sequence[Mapping[str, Path]]) -> Iterator[list[Tensor]]:
    """A tensor of several models in flat pieces."""
    flat = [read(files[name], name).reshape(-1) for files in files_of]
    for start in range(0, len(flat[0]), PIECE):
        yield [tensor[start : start + PIECE] for tensor in flat]


def _together(sources: Sequence[Path], beside: Sequence[Path] = ()) -> tuple[list[dict[str, Path]], dict[str, Shape]]:
    """Where each folder has the tensors of the models, and their shapes, which are the same in all."""
    found = [locations(source) for source in sources]
    found += [{name: file for name, file in locations(one).items() if name in found[0]} for one in beside]
    first = shapes(found[0])
    for source, files in zip([*sources[1:], *beside], found[1:], strict=True):
        odd = sorted(first.keys() ^ files.keys())
        if odd:
            side = sources[0] if odd[0] in first else source
            raise ValueError(f"{sources[0]} and {source} cannot be merged: only {side} has {odd[0]}")
        for name, shape in shapes(files).items():
            if shape != first[name]:
                raise ValueError(
                    f"the models cannot be merged: {name} is {first[name]} in {sources[0]} and {shape} in {source}"
                )
    return found, first


def _from_base(tensors: list[Tensor], method: str, parameters: dict[str, object]) -> Tensor:
    ids = ["base", *(str(i) for i in range(1, len(tensors)))]
    merged: Tensor = merge_tensors(tensors, method, parameters=parameters, ids=ids, base_index=0, dtype=torch.float32)
    return merged


def _weights(weights: Sequence[float], models: Sequence[Path]) -> dict[str, float]:
    if len(weights) != len(models):
        raise ValueError(f"{len(models)} models need as many weights, not {len(weights)}")
    return {str(i): float(weight) for i, weight in enumerate(weights, 1)}


def _threshold(base: Mapping[str, Path], model: Mapping[str, Path], density: float) -> float:
    """The magnitude of the smallest entry of θ − base that is kept, of the models with tensors in these files."""

    still = buffers(model)

    def moved() -> Iterator[Part]:
        for name in (name for name in base if name not in still):
            for origin, theta in _pieces(name, [base, model]):
                yield (theta - origin).numpy()

    with _one_thread():
        return threshold(moved, density)
