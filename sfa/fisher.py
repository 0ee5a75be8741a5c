"""The diagonal of the Fisher information, on this rank's shards, kept beside the stage it was taken at."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfa.anchor import local, trained_shards
from sfa.finite import check
from sfa.parallel import exclusively
from sfa.store import fingerprint, unsealed
from sfa.weights import read_shards, write_shards

log = logging.getLogger(__name__)

Labels = Literal["empirical", "sampled"]

# Of the gradients of examples that are taken together, and how many these are at most: more leave the cache.
HOST_BYTES, DEVICE_BYTES = 128 * 2**20, 4 * 2**30
AT_ONCE = 64


def diagonal(model: Any, examples: Iterable[dict[str, Tensor]], labels: Labels, seed: int = 0) -> dict[str, Tensor]:
    """Mean over ``examples`` of the squared gradient of −log p(labels | input) for every trained parameter (Kirkpatrick
    et al., 2017). All ranks pass the same examples; the result is this rank's shards.

    The gradients of examples of one shape are taken together as far as memory allows, each still by itself; those of
    a sharded model one after another.

    Args:
        model: has ``forward(example)``, ``loss(output, example)``, the summed negative log-likelihood of one example,
            and, for sampled labels, ``sampled(output, example, generator)``, the example with labels drawn from it.
        examples: one at a time, on the model's device.
        labels: those of the data (the empirical Fisher information), or drawn from the model's own predictions.
        seed: of the draws.

    Raises:
        NotFinite: names a tensor whose Fisher information is infinite or not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    shards = trained_shards(model)
    total = {name: torch.zeros_like(shard) for name, shard in shards.items()}
    device, size = next(iter(shards.values())).device, sum(shard.nbytes for shard in shards.values())
    room = (HOST_BYTES if device.type == "cpu" else DEVICE_BYTES) // size
    at_once = min(max(room, 1), AT_ONCE) if _can_be_mapped(model) else 1
    count = 0
    for alike in _alike(examples, at_once):
        count += len(alike)
        _add_squares(total, model, _answered(model, alike, generator) if labels == "sampled" else alike)
    mean = {name: tensor.div_(max(count, 1)) for name, tensor in total.items()}
    check(mean, "Fisher information")
    return mean


def _add_squares(total: dict[str, Tensor], model: Any, group: Sequence[dict[str, Tensor]]) -> None:
    """Adds the squared gradients of examples of one shape to ``total``."""
    keys = list(group[0])
    differ = {key: any(not torch.equal(group[0][key], other[key]) for other in group[1:]) for key in keys}
    if not any(differ.values()):
        model.zero_grad(set_to_none=True)
        model.loss(model(group[0]), group[0]).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                gradient = local(parameter.grad)
                total[name].addcmul_(gradient, gradient, value=len(group))
        model.zero_grad(set_to_none=True)
        return
    # What all examples share is not mapped over: models look at position ids and masks, which a mapped tensor forbids.
    stacked = {key: torch.stack([one[key] for one in group]) if differ[key] else group[0][key] for key in keys}
    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(parameters: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
        output = functional_call(model, parameters, (example,))
        found: Tensor = model.loss(output, example)
        return found

    # On a CPU only the plain attention can be mapped over.
    plain = sdpa_kernel(SDPBackend.MATH) if next(iter(trained.values())).device.type == "cpu" else None
    with plain or contextlib.nullcontext():
        each = vmap(grad(loss), in_dims=(None, {key: 0 if differ[key] else None for key in keys}))(trained, stacked)
    for name, gradients in each.items():
        for gradient in gradients:  # the squares of all at once would be memory of their own, and leave the cache
            total[name].addcmul_(gradient, gradient)


@torch.no_grad()
def _answered(model: Any, group: Sequence[dict[str, Tensor]], generator: torch.Generator) -> list[dict[str, Tensor]]:
    return [model.sampled(model(example), example, generator) for example in group]


def _alike(examples: Iterable[dict[str, Tensor]], size: int) -> Iterator[list[dict[str, Tensor]]]:
    """The examples in groups of one shape and at most ``size``."""
    waiting: dict[tuple[torch.Size, ...], list[dict[str, Tensor]]] = {}
    for example in examples:
        shape = tuple(tensor.shape for tensor in example.values())
        group = waiting.setdefault(shape, [])
        group.append(example)
        if len(group) == size:
            yield waiting.pop(shape)
    yield from waiting.values()


def _can_be_mapped(model: nn.Module) -> bool:
    """Whether examples can be taken together: not where parameters are shards, nor under the autocast that computes in
    bfloat16 on a CPU, which torch 2.7 loses in a mapped backward pass."""
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    sharded = sharded or any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    return not (sharded or getattr(model, "cpu_bf16", False))


def fisher_folder(folder: Path, examples: int, labels: Labels, seed: int) -> Path:
    """Where the Fisher information of a stage's task at its weights is kept, in the stage's ``folder``."""
    key = fingerprint({"labels": labels, "examples": examples, "seed": seed})
    return folder / f"fisher-{key}"


@dataclass(frozen=True)
class Fisher:
    """Fisher information of one task. What it is does not depend on who asks first: it is taken in float32, over
    examples as the task itself was trained on.

    Attributes:
        folder: where it is kept, or will be.
        anchor: folder of the model that its pull is to; ``None`` is θ_o, the weights at the start of the fit.
        here: whether it is that of the weights at the start of the fit.
        examples: gives the task's examples.
        labels: see :func:`diagonal`.
        seed: of sampled labels.
        model: folder of the weights it is of; ``None``: it can be taken at the start of the fit alone.
    """

    folder: Path
    anchor: str | None
    here: bool
    examples: Callable[[], list[dict[str, Tensor]]]
    labels: Labels = "empirical"
    seed: int = 0
    model: str | None = None

    def shards(self, module: nn.Module, state: State) -> dict[str, Tensor]:
        """This rank's shards, read from ``folder``, or computed and kept there. All ranks call it.

        Raises:
            DamagedStage: a file in ``folder`` is not the one that was written.
            ValueError: it is not in ``folder``, and the weights it belongs to are gone.
        """
        with exclusively(self.folder, log.info):
            if not dist.all_gather_object(self.folder.is_dir())[0]:
                self._take(module, state)
        return read_shards(module, unsealed(self.folder))

    def _take(self, module: nn.Module, state: State) -> None:
        """Computes it at its weights, for which those of ``module`` make room."""
        own, kept = trained_shards(module), None
        if not self.here or state.timestamp.batch.value > 0:
            if self.model is None:
                raise ValueError(f"{self.folder} holds no Fisher information, and the weights it belongs to are gone")
            kept = {name: shard.clone() for name, shard in own.items()}
            _put(own, read_shards(module, Path(self.model)))
        training, half = module.training, getattr(module, "cpu_bf16", False)
        module.eval()
        if half:
            module.cpu_bf16 = False  # type: ignore[assignment]
        examples = (state.device.batch_to_device(example) for example in self.examples())
        write_shards(module, diagonal(module, examples, self.labels, self.seed), self.folder)
        if half:
            module.cpu_bf16 = True  # type: ignore[assignment]
        module.train(training)
        if kept is not None:
            _put(own, kept)


@torch.no_grad()
def _put(shards: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, shard in shards.items():
        shard.copy_(values[name])
