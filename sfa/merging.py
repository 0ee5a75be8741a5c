"""Merges of models after training, from folder to folder, one tensor of each model in memory at a time.

Weights are merged, buffers are not: running statistics become the mean of those of the models that were trained, and
whole numbers are the last model's. Of an average with θ_o these are θ's own, as in training.

Soup, Task Arithmetic and TIES are mergekit's, in float32. TIES is trimmed here before, over the whole task vector as in
its paper; mergekit trims each tensor for itself. The average of SFA and WiSE-FT is SFA's own, and Fisher merging is
equation 15.

Every merge compares first what shapes cannot tell (:mod:`sfa.compatible`), writes the whole folder or nothing, and
returns sentences on what could not be compared. Of adapters, the factors are averaged, which are what is trained.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfa import extras
from sfa.compatible import compare
from sfa.errors import MergeError
from sfa.model_files import MODEL, other_weights
from sfa.tensors import WHOLE_NUMBERS, Shape, buffers, kinds, locations, read, shapes, stored, write
from sfa.threshold import threshold

Rule = Callable[[list[Tensor]], Tensor]
# Entries that are merged at a time. What is computed of them stays in a core's cache; and as whole vectors of the CPU,
# they are merged bit for bit as in their whole tensor, even where a sum over many models depends on that.
PIECE = 1 << 18
# Of normalized Fisher information, the least that counts: that of the method's authors.
FLOOR = 1e-6
# What is not whole yet, in the folder of the result.
PART = ".part"


def average(theta_o: Path, theta: Path, beta: float, out: Path) -> list[str]:
    """β·θ_o + (1−β)·θ, bit for bit as :class:`sfa.SFA` merges on the same device (Algorithm 1)."""
    if not 0 <= beta <= 1:
        raise MergeError(f"beta weighs the first model and must lie in [0, 1], not {beta}")

    def rule(tensors: list[Tensor]) -> Tensor:
        old, new = tensors
        torch._foreach_lerp_([new], [old], beta)
        return new

    return merge([theta_o, theta], rule, out, base=True)


def soup(models: Sequence[Path], out: Path) -> list[str]:
    """The mean of models (Wortsman et al., 2022a)."""
    extras.require("merge")
    from mergekit.merge_methods.api import merge_tensors

    def rule(tensors: list[Tensor]) -> Tensor:
        mean: Tensor = merge_tensors(
            tensors, "linear", parameters={"weight": 1.0, "normalize": True}, dtype=torch.float32
        )
        return mean

    return merge(models, rule, out)


def task_arithmetic(base: Path, models: Sequence[Path], weights: Sequence[float], out: Path) -> list[str]:
    """base + Σ wᵢ(θᵢ − base) (Ilharco et al., 2023)."""
    extras.require("merge")
    named = named_weights(weights, models)

    def rule(tensors: list[Tensor]) -> Tensor:
        return from_base(tensors, "task_arithmetic", {"weight": named, "normalize": False})

    return merge([base, *models], rule, out, base=True)


def ties(
    base: Path, models: Sequence[Path], weights: Sequence[float], out: Path, density: float = 0.2, scale: float = 1.0
) -> list[str]:
    """base + λ·(disjoint mean of the trimmed task vectors, weighted) (Yadav et al., 2023).

    Args:
        base: the model that all were trained from.
        models: folders of θᵢ.
        weights: wᵢ, of each task vector in the election of signs and in the mean.
        out: folder of the result.
        density: share of each whole task vector that is kept, the entries of largest magnitude.
        scale: λ.
    """
    extras.require("merge")
    named = named_weights(weights, models)
    if not math.isfinite(scale):
        raise MergeError(f"the scale must be finite, not {scale}")
    together = _together([base, *models], out, base=True)
    origin_files, *others_files = together.found
    smallest = [_threshold(origin_files, files, density) for files in others_files]

    def rule(tensors: list[Tensor]) -> Tensor:
        origin, *others = tensors
        kept = [
            torch.where((theta - origin).abs() >= least, theta, origin)
            for theta, least in zip(others, smallest, strict=True)
        ]
        parameters = {"weight": named, "density": 1.0, "normalize": True, "lambda": scale}
        return from_base([origin, *kept], "ties", parameters)

    return _write(together, rule, out)


def fisher(
    models: Sequence[Path], fishers: Sequence[Path], weights: Sequence[float], out: Path, normalize: bool = False
) -> list[str]:
    """Σ λᵢFᵢθᵢ / Σ λᵢFᵢ (Matena & Raffel, 2022; eq. 15); where no model has any information, their mean.

    In float64, which holds the product of any two float32 numbers: what counts is how the information of the models
    compares at an entry, and not how small it is there.

    Args:
        models: folders of θᵢ.
        fishers: folders of Fᵢ, with tensors named as the models' are.
        weights: λᵢ, not negative.
        out: folder of the result.
        normalize: divides each Fᵢ by its norm over the whole model, so that a task of larger gradients does not
            dominate, and raises what is less than :data:`FLOOR` to it, so that every model has some say everywhere.
    """
    factors = list(named_weights(weights, models).values())
    if len(fishers) != len(models):
        raise MergeError(f"{len(models)} models need as many Fishers, not {len(fishers)}")
    if min(factors) < 0 or max(factors) == 0:
        raise MergeError(f"Fisher information weighs with what is not negative, and not all zero; not {factors}")
    together = _together(models, out, fishers)
    norms = [_norm(files) if normalize else 1.0 for files in together.found[len(models) :]]

    def rule(tensors: list[Tensor]) -> Tensor:
        thetas, informations = tensors[: len(models)], tensors[len(models) :]
        top = torch.zeros_like(thetas[0], dtype=torch.float64)
        bottom = torch.zeros_like(top)
        for i, (theta, information) in enumerate(zip(thetas, informations, strict=True)):
            if bool((information < 0).any()):
                raise MergeError(f"Fisher information is a mean of squares, and {fishers[i]} holds a negative one")
            weighted = information.double().div_(norms[i])
            if normalize:
                weighted.clamp_(min=FLOOR)
            weighted *= factors[i] / max(factors)
            top.addcmul_(weighted, theta.double())
            bottom += weighted
        return torch.where(bottom > 0, top / bottom, torch.stack(thetas).mean(0)).float()

    return _write(together, rule, out)


def merge(sources: Sequence[Path], rule: Rule, out: Path, base: bool = False, whole: bool = False) -> list[str]:
    """Writes a model folder like the first of ``sources``, with every tensor as ``rule`` makes it of theirs (float32).

    One tensor of each source is in memory, and a piece of what is made of them: a file is written as they are made.

    Args:
        sources: folders of models with the same tensors.
        rule: makes a flat piece of a tensor, of the same piece of it in all ``sources``. It works on each entry for
            itself, unless ``whole``.
        out: folder of the result, which is empty or not there.
        base: the first of ``sources`` is not merged itself, but what the others were trained from.
        whole: ``rule`` is given whole tensors, flat.

    Returns:
        Sentences on what could not be compared.

    Raises:
        MergeError: the models do not belong together, a tensor is not finite, or ``out`` is not empty; nothing was
            written.
        OSError: a folder lacks files, or the result cannot be written.
    """
    return _write(_together(sources, out, base=base), rule, out, whole)


@dataclass(frozen=True)
class _Together:
    """Models that were found to belong together.

    Attributes:
        first: folder of the first, whose files go with the result.
        found: the file of each tensor, of each model, then of what lies beside them.
        trained: those of ``found`` whose buffers count: of the models that are merged, without their base.
        sizes: the shape of each tensor.
        notes: on what could not be compared.
    """

    first: Path
    found: list[dict[str, Path]]
    trained: list[dict[str, Path]]
    sizes: dict[str, Shape]
    notes: list[str]


def _together(sources: Sequence[Path], out: Path, beside: Sequence[Path] = (), base: bool = False) -> _Together:
    """Looks whether models can be merged, before anything is written. ``beside`` are folders that hold, among others,
    tensors of the same names and shapes."""
    if not sources:
        raise MergeError("there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(file.name != PART for file in out.iterdir())):
        raise MergeError(f"{out} is not empty")
    for folder in (*sources, *beside):
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise MergeError(f"{out} lies in {folder}, which is merged: write the result elsewhere")
    found = [locations(source) for source in sources]
    notes = compare(sources)
    found += [{name: file for name, file in locations(one).items() if name in found[0]} for one in beside]
    first = shapes(found[0])
    for source, files in zip([*sources[1:], *beside], found[1:], strict=True):
        odd = sorted(first.keys() ^ files.keys())
        if odd:
            side = sources[0] if odd[0] in first else source
            raise MergeError(f"{sources[0]} and {source} cannot be merged: only {side} has {odd[0]}")
        for name, shape in shapes(files).items():
            if shape != first[name]:
                raise MergeError(
                    f"the models cannot be merged: {name} is {first[name]} in {sources[0]} and {shape} in {source}"
                )
    return _Together(sources[0], found, found[int(base) : len(sources)], first, notes)


def _write(models: _Together, rule: Rule, out: Path, whole_tensors: bool = False) -> list[str]:
    """Writes the merge, whole or not at all: into a folder in ``out``, whose files are then moved up."""
    there = out.is_dir()
    part = out / PART
    last = models.trained[-1]
    whole = {name: kind for name, kind in kinds(last).items() if kind in WHOLE_NUMBERS}
    statistics = buffers(last) - whole.keys()

    def pieces(name: str) -> Iterator[Tensor]:
        if name in whole:
            yield stored(last[name], name)
        elif name in statistics:
            mean = torch.stack([read(files[name], name) for files in models.trained]).mean(0)
            if not _finite(mean):
                raise MergeError(f"{name} of a source is not finite")
            yield mean
        else:
            yield from _merged(name, models.found, rule, whole_tensors)

    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        own = set(models.found[0].values())
        for file in sorted(models.first.iterdir()):
            if file in own:
                sizes = {name: models.sizes[name] for name, where in models.found[0].items() if where == file}
                with _one_thread():
                    write(
                        part / file.name, sizes, pieces, {name: kind for name, kind in whole.items() if name in sizes}
                    )
            elif file.is_file() and (not other_weights(file) or _lists(file, own)):
                shutil.copyfile(file, part / file.name)
        # The config last: what a power cut leaves before it is no model to any reader.
        for file in sorted(part.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
            file.replace(out / file.name)
        part.rmdir()
    except BaseException:
        shutil.rmtree(part if there else out, ignore_errors=True)
        raise
    return models.notes


def _lists(file: Path, own: set[Path]) -> bool:
    """Whether a file is the index of these."""
    return file.name.endswith(".index.json") and file.parent / MODEL not in own


def _merged(name: str, found: Sequence[Mapping[str, Path]], rule: Rule, whole: bool) -> Iterator[Tensor]:
    """A merged tensor in flat pieces, or in one."""
    for pieces in _pieces(name, found, whole):
        try:
            made = rule(pieces)
        except ValueError as error:
            raise MergeError(f"{name}: {error}") from error
        if not _finite(made):
            raise MergeError(f"the merged {name} is not finite: the weights are too large")
        yield made


@contextmanager
def _one_thread() -> Iterator[None]:
    """A piece is too small to be shared: threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pieces(name: str, files_of: Sequence[Mapping[str, Path]], whole: bool = False) -> Iterator[list[Tensor]]:
    """A tensor of several models in flat pieces, or in one.

    Raises:
        MergeError: it holds an infinite value or a NaN; names its file.
    """
    flat = [read(files[name], name).reshape(-1) for files in files_of]
    size = max(len(flat[0]), 1) if whole else PIECE
    for start in range(0, len(flat[0]), size):
        pieces = [tensor[start : start + size] for tensor in flat]
        for piece, files in zip(pieces, files_of, strict=True):
            if not _finite(piece):
                raise MergeError(f"{name} in {files[name]} is not finite: it holds a NaN or an infinite value")
        yield pieces


def _finite(piece: Tensor) -> bool:
    """One sum tells, unless it overflows: no infinite value or NaN leaves a sum finite."""
    return math.isfinite(float(piece.sum())) or bool(piece.isfinite().all())


def _norm(files: Mapping[str, Path]) -> float:
    """Of all tensors as one vector, in float64; 1 for one of zeros."""
    with _one_thread():
        squares = [
            float(piece.double().square().sum()) for name in sorted(files) for (piece,) in _pieces(name, [files])
        ]
    return math.sqrt(math.fsum(squares)) or 1.0


def from_base(tensors: list[Tensor], method: str, parameters: dict[str, object]) -> Tensor:
    """mergekit's merge of tensors, of which the first is the base's."""
    extras.require("merge")
    from mergekit.merge_methods.api import merge_tensors

    ids = ["base", *(str(i) for i in range(1, len(tensors)))]
    merged: Tensor = merge_tensors(tensors, method, parameters=parameters, ids=ids, base_index=0, dtype=torch.float32)
    return merged


def named_weights(weights: Sequence[float], models: Sequence[Path]) -> dict[str, float]:
    """One a model, by the names that :func:`from_base` gives them.

    Raises:
        ValueError: there are not as many as models, or one is not finite.
    """
    if len(weights) != len(models):
        raise MergeError(f"{len(models)} models need as many weights, not {len(weights)}")
    if not all(math.isfinite(weight) for weight in weights):
        raise MergeError(f"weights must be finite, not {list(weights)}")
    return {str(i): float(weight) for i, weight in enumerate(weights, 1)}


def _threshold(base: Mapping[str, Path], model: Mapping[str, Path], density: float) -> float:
    """The magnitude of the smallest entry of θ − base that is kept, of the models with tensors in these files."""

    still = buffers(model)

    def moved() -> Iterator[Tensor]:
        for name in (name for name in base if name not in still):
            for origin, theta in _pieces(name, [base, model]):
                yield theta - origin

    with _one_thread():
        return threshold(moved, density)
