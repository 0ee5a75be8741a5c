"""Merges of models after training, from folder to folder, with one tensor of each model in memory at a time.

Only weights are merged: running statistics are averaged over the trained models, and whole numbers are copied from the
last model. In an average with θ_o both are θ's, as in training.

Soup, Task Arithmetic and TIES are mergekit's, in float32. For TIES, task vectors are trimmed here first, each as a
whole as in the paper; mergekit trims each tensor separately. The average of SFA and WiSE-FT is SFA's own,
and Fisher merging is equation 15.

Every merge first compares what shapes do not show (:mod:`sfa.compatible`), writes the folder completely or not at all,
and returns notes on what could not be compared. For adapters, the trained factors are averaged.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
# Entries merged at a time. Intermediate results stay in a core's cache; and as a multiple of the CPU's vector size,
# they are merged bit for bit as in the whole tensor, even if a sum over many models depends on that.
PIECE = 1 << 18
# Lower bound of normalized Fisher information, from the method's authors.
FLOOR = 1e-6
# Folders of the incomplete result and of an intermediate one, inside that of the result.
PART, SUM = ".part", ".sum"


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
        weights: wᵢ, the weight of each task vector in the sign election and the mean.
        out: folder of the result.
        density: share of each task vector that is kept: the entries of largest magnitude.
        scale: λ.
    """
    extras.require("merge")
    named = named_weights(weights, models)
    if not math.isfinite(scale):
        raise MergeError(f"the scale must be finite, not {scale}")
    inputs = check_inputs([base, *models], out, base=True)
    origin_files, *others_files = inputs.locations
    smallest = [_threshold(origin_files, files, density) for files in others_files]

    def rule(tensors: list[Tensor]) -> Tensor:
        origin, *others = tensors
        trimmed = [
            torch.where((theta - origin).abs() >= least, theta, origin)
            for theta, least in zip(others, smallest, strict=True)
        ]
        parameters = {"weight": named, "density": 1.0, "normalize": True, "lambda": scale}
        return from_base([origin, *trimmed], "ties", parameters)

    return write_merge(inputs, lambda _: rule, out)


def fisher(
    models: Sequence[Path], fishers: Sequence[Path], weights: Sequence[float], out: Path, normalize: bool = False
) -> list[str]:
    """Σ λᵢFᵢθᵢ / Σ λᵢFᵢ (Matena & Raffel, 2022; eq. 15); or their mean where all Fᵢ are 0.

    Computed in float64, which represents the product of any two float32 numbers: the result depends on the ratio of
    the models' Fisher information at an entry, however small it is.

    Args:
        models: folders of θᵢ.
        fishers: folders of Fᵢ, with the models' tensor names.
        weights: λᵢ, not negative.
        out: folder of the result.
        normalize: divides each Fᵢ by its norm over the whole model, so that a task with larger gradients does not
            dominate, and bounds it below by :data:`FLOOR`, so that every model contributes to every entry.
    """
    factors = list(named_weights(weights, models).values())
    if len(fishers) != len(models):
        raise MergeError(f"{len(models)} models need as many Fishers, not {len(fishers)}")
    if min(factors) < 0 or max(factors) == 0:
        raise MergeError(f"the weights of Fisher merging must not be negative, and not all zero; not {factors}")
    inputs = check_inputs(models, out, fishers)
    norms = [_norm(files) if normalize else 1.0 for files in inputs.locations[len(models) :]]

    def rule(tensors: list[Tensor]) -> Tensor:
        thetas, informations = tensors[: len(models)], tensors[len(models) :]
        top = torch.zeros_like(thetas[0], dtype=torch.float64)
        bottom = torch.zeros_like(top)
        for i, (theta, information) in enumerate(zip(thetas, informations, strict=True)):
            if bool((information < 0).any()):
                raise MergeError(f"Fisher information is a mean of squares, and {fishers[i]} contains a negative value")
            weighted = information.double().div_(norms[i])
            if normalize:
                weighted.clamp_(min=FLOOR)
            weighted *= factors[i] / max(factors)
            top.addcmul_(weighted, theta.double())
            bottom += weighted
        return torch.where(bottom > 0, top / bottom, torch.stack(thetas).mean(0)).float()

    return write_merge(inputs, lambda _: rule, out)


def merge(sources: Sequence[Path], rule: Rule, out: Path, base: bool = False, whole: bool = False) -> list[str]:
    """Writes a model folder like the first of ``sources``, with every tensor computed by ``rule`` (float32).

    Files are written piece by piece: only one tensor of each source, and a piece of the result, is in memory.

    Args:
        sources: folders of models with the same tensors.
        rule: computes a flat piece of a tensor from the same piece in all ``sources``. It must be elementwise, unless
            ``whole``.
        out: folder of the result; it must be empty or not exist.
        base: the first of ``sources`` is not merged, but is the model that the others were trained from.
        whole: pass whole tensors in their shapes to ``rule``.

    Returns:
        Notes on what could not be compared.

    Raises:
        MergeError: the models are incompatible, a tensor is not finite, or ``out`` is not empty; nothing was
            written.
        OSError: a folder lacks files, or the result cannot be written.
    """
    return write_merge(check_inputs(sources, out, base=base), lambda _: rule, out, whole)


@dataclass(frozen=True)
class Inputs:
    """Models that were checked to be compatible.

    Attributes:
        first: folder of the first model, whose other files are copied to the result.
        locations: the file of each tensor, of each model and then of each additional folder.
        trained: those of ``locations`` whose buffers are used: of the merged models without their base.
        sizes: the shape of each tensor.
        notes: notes on what could not be compared.
    """

    first: Path
    locations: list[dict[str, Path]]
    trained: list[dict[str, Path]]
    sizes: dict[str, Shape]
    notes: list[str]


def check_inputs(sources: Sequence[Path], out: Path, additional: Sequence[Path] = (), base: bool = False) -> Inputs:
    """Checks whether models can be merged, before anything is written. ``additional`` folders contain tensors of the
    same names and shapes, and possibly others.

    Raises:
        MergeError: they cannot.
    """
    if not sources:
        raise MergeError("there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(file.name not in (PART, SUM) for file in out.iterdir())):
        raise MergeError(f"{out} is not empty")
    for folder in (*sources, *additional):
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise MergeError(f"{out} lies in {folder}, which is merged: write the result elsewhere")
    files_of = [locations(source) for source in sources]
    notes = compare(sources)
    files_of += [
        {name: file for name, file in locations(folder).items() if name in files_of[0]} for folder in additional
    ]
    first = shapes(files_of[0])
    for source, files in zip([*sources[1:], *additional], files_of[1:], strict=True):
        odd = sorted(first.keys() ^ files.keys())
        if odd:
            side = sources[0] if odd[0] in first else source
            raise MergeError(f"{sources[0]} and {source} cannot be merged: only {side} has {odd[0]}")
        for name, shape in shapes(files).items():
            if shape != first[name]:
                raise MergeError(
                    f"the models cannot be merged: {name} is {first[name]} in {sources[0]} and {shape} in {source}"
                )
    return Inputs(sources[0], files_of, files_of[int(base) : len(sources)], first, notes)


def write_merge(inputs: Inputs, rule_of: Callable[[str], Rule], out: Path, whole_tensors: bool = False) -> list[str]:
    """Writes the merge completely or not at all: into a folder in ``out``, whose files are then moved up. ``rule_of``
    returns the rule for the tensor of a name; see :func:`merge`."""
    existed = out.is_dir()
    part = out / PART
    last = inputs.trained[-1]
    whole = {name: kind for name, kind in kinds(last).items() if kind in WHOLE_NUMBERS}
    statistics = buffers(last) - whole.keys()

    def pieces(name: str) -> Iterator[Tensor]:
        if name in whole:
            yield stored(last[name], name)
        elif name in statistics:
            mean = torch.stack([read(files[name], name) for files in inputs.trained]).mean(0)
            if not _finite(mean):
                raise MergeError(f"{name} of a source is not finite")
            yield mean
        else:
            yield from _merged(name, inputs.locations, rule_of(name), whole_tensors)

    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
    part.mkdir(parents=True)
    with removed_on_failure(part if existed else out):
        weights = set(inputs.locations[0].values())
        for file in sorted(inputs.first.iterdir()):
            if file in weights:
                sizes = {name: inputs.sizes[name] for name, place in inputs.locations[0].items() if place == file}
                with _one_thread():
                    write(
                        part / file.name, sizes, pieces, {name: kind for name, kind in whole.items() if name in sizes}
                    )
            elif file.is_file() and (not other_weights(file) or _is_index_of(file, weights)):
                shutil.copyfile(file, part / file.name)
        # The config comes last: without it, no reader takes an interrupted merge for a model.
        for file in sorted(part.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
            file.replace(out / file.name)
        part.rmdir()
    return inputs.notes


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Removes ``folder`` if what is done in this context fails or is interrupted."""
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield
        stack.pop_all()


def _is_index_of(file: Path, weights: set[Path]) -> bool:
    """Whether a file is the index of these weight files."""
    return file.name.endswith(".index.json") and file.parent / MODEL not in weights


def _merged(name: str, files_of: Sequence[Mapping[str, Path]], rule: Rule, whole: bool) -> Iterator[Tensor]:
    """A merged tensor in flat pieces, or as a whole."""
    for pieces in _pieces(name, files_of, whole):
        try:
            merged = rule(pieces)
        except ValueError as error:
            raise MergeError(f"{name}: {error}") from error
        if not _finite(merged):
            raise MergeError(f"the merged {name} is not finite: the weights are too large")
        yield merged


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one thread: a piece is too small for several, whose synchronization would dominate."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pieces(name: str, files_of: Sequence[Mapping[str, Path]], whole: bool = False) -> Iterator[list[Tensor]]:
    """A tensor of several models in flat pieces, or as a whole; an empty tensor has no piece.

    Raises:
        MergeError: it contains an infinite value or a NaN; names its file.
    """
    tensors = [read(files[name], name) for files in files_of]
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, len(flat[0]), (len(flat[0]) or 1) if whole else PIECE):
        pieces = tensors if whole else [tensor[start : start + PIECE] for tensor in flat]
        for piece, files in zip(pieces, files_of, strict=True):
            if not _finite(piece):
                raise MergeError(f"{name} in {files[name]} is not finite: it contains a NaN or an infinite value")
        yield pieces


def _finite(piece: Tensor) -> bool:
    """Whether all entries are finite. A finite sum implies it; an infinite one may also be an overflow."""
    return math.isfinite(float(piece.sum())) or bool(piece.isfinite().all())


def _norm(files: Mapping[str, Path]) -> float:
    """The norm of all tensors as one vector, in float64; 1 if it is 0."""
    with _one_thread():
        squares = [
            float(piece.double().square().sum()) for name in sorted(files) for (piece,) in _pieces(name, [files])
        ]
    return math.sqrt(math.fsum(squares)) or 1.0


def from_base(tensors: list[Tensor], method: str, parameters: dict[str, object]) -> Tensor:
    """mergekit's merge of tensors; the first one is the base's."""
    extras.require("merge")
    from mergekit.merge_methods.api import merge_tensors

    ids = ["base", *(str(i) for i in range(1, len(tensors)))]
    merged: Tensor = merge_tensors(tensors, method, parameters=parameters, ids=ids, base_index=0, dtype=torch.float32)
    return merged


def named_weights(weights: Sequence[float], models: Sequence[Path]) -> dict[str, float]:
    """The weight of each model, by its name in :func:`from_base`.

    Raises:
        ValueError: their number differs from that of the models, or one is not finite.
    """
    if len(weights) != len(models):
        raise MergeError(f"{len(models)} models need as many weights, not {len(weights)}")
    if not all(math.isfinite(weight) for weight in weights):
        raise MergeError(f"weights must be finite, not {list(weights)}")
    return {str(i): float(weight) for i, weight in enumerate(weights, 1)}


def _threshold(base: Mapping[str, Path], model: Mapping[str, Path], density: float) -> float:
    """The magnitude of the smallest entry of θ − base that is kept, for models with tensors in these files."""
    excluded = buffers(model)

    def differences() -> Iterator[Tensor]:
        for name in (name for name in base if name not in excluded):
            for origin, theta in _pieces(name, [base, model]):
                yield theta - origin

    with _one_thread():
        return threshold(differences, density)
