"""The diagonal of the Fisher information, on this rank's shards, cached in the folder of its stage."""

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
from sfa.store import fingerprint, verify_checksums
from sfa.weights import read_shards, write_shards

log = logging.getLogger(__name__)

Labels = Literal["empirical", "sampled"]

# Size of the gradients of a group of examples, and the largest group: more gradients leave the cache.
HOST_BYTES, DEVICE_BYTES = 128 * 2**20, 4 * 2**30
LARGEST_GROUP = 64


def diagonal(model: Any, examples: Iterable[dict[str, Tensor]], labels: Labels, seed: int = 0) -> dict[str, Tensor]:
    """Mean over ``examples`` of the squared gradient of −log p(labels | input) for every trained parameter (Kirkpatrick
    et al., 2017). All ranks pass the same examples; the result is this rank's shards.

    Per-example gradients of examples of one shape are computed together as far as memory allows; those of a sharded
    model one after another.

    Args:
        model: has ``forward(example)``, ``loss(output, example)``, the summed negative log-likelihood of one example,
            and, for sampled labels, ``sampled(output, example, generator)``, the example with labels drawn from it.
        examples: single examples, on the model's device.
        labels: from the data (empirical Fisher information), or sampled from the model's predictions.
        seed: seed of the sampling.

    Raises:
        NotFinite: names a tensor whose Fisher information is infinite or NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    shards = trained_shards(model)
    total = {name: torch.zeros_like(shard) for name, shard in shards.items()}
    device, size = next(iter(shards.values())).device, sum(shard.nbytes for shard in shards.values())
    capacity = (HOST_BYTES if device.type == "cpu" else DEVICE_BYTES) // size
    group_size = min(max(capacity, 1), LARGEST_GROUP) if _can_be_mapped(model) else 1
    count = 0
    for group in _group_by_shape(examples, group_size):
        count += len(group)
        _add_squares(total, model, _sample_labels(model, group, generator) if labels == "sampled" else group)
    mean = {name: tensor.div_(max(count, 1)) for name, tensor in total.items()}
    check(mean, "Fisher information")
    return mean


def _add_squares(total: dict[str, Tensor], model: Any, group: Sequence[dict[str, Tensor]]) -> None:
    """Adds the squared gradients of examples of one shape to ``total``."""
    keys = list(group[0])
    differ = {key: any(not torch.equal(group[0][key], example[key]) for example in group[1:]) for key in keys}
    if not any(differ.values()):
        model.zero_grad(set_to_none=True)
        model.loss(model(group[0]), group[0]).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                gradient = local(parameter.grad)
                total[name].addcmul_(gradient, gradient, value=len(group))
        model.zero_grad(set_to_none=True)
        return
    # Shared tensors are not mapped over: models branch on position ids and masks, which vmap forbids.
    stacked = {key: torch.stack([example[key] for example in group]) if differ[key] else group[0][key] for key in keys}
    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(parameters: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
        output = functional_call(model, parameters, (example,))
        value: Tensor = model.loss(output, example)
        return value

    # On CPU only the math attention supports vmap.
    plain = sdpa_kernel(SDPBackend.MATH) if next(iter(trained.values())).device.type == "cpu" else None
    with plain or contextlib.nullcontext():
        each = vmap(grad(loss), in_dims=(None, {key: 0 if differ[key] else None for key in keys}))(trained, stacked)
    for name, gradients in each.items():
        for gradient in gradients:  # squaring all at once would need more memory, and leave the cache
            total[name].addcmul_(gradient, gradient)


@torch.no_grad()
def _sample_labels(
    model: Any, group: Sequence[dict[str, Tensor]], generator: torch.Generator
) -> list[dict[str, Tensor]]:
    return [model.sampled(model(example), example, generator) for example in group]


def _group_by_shape(examples: Iterable[dict[str, Tensor]], size: int) -> Iterator[list[dict[str, Tensor]]]:
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
    """Whether vmap works for the model: not with sharded parameters, nor under the bfloat16 autocast on CPU, which
    torch 2.7 loses in a mapped backward pass."""
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    sharded = sharded or any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    return not (sharded or getattr(model, "cpu_bf16", False))


def fisher_folder(folder: Path, examples: int, labels: Labels, seed: int) -> Path:
    """The folder of the Fisher information of a stage's task at its weights, in the stage's ``folder``."""
    key = fingerprint({"labels": labels, "examples": examples, "seed": seed})
    return folder / f"fisher-{key}"


@dataclass(frozen=True)
class Fisher:
    """Fisher information of one task. It is the same whichever run computes it: in float32, over examples as the task
    itself was trained on.

    Attributes:
        folder: folder where it is cached.
        anchor: folder of the model that the penalty pulls to; ``None``: θ_o, the weights at the start of the fit.
        here: whether it is estimated at the weights at the start of the fit.
        examples: returns the task's examples.
        labels: see :func:`diagonal`.
        seed: seed of sampled labels.
        model: folder of the weights it is estimated at; ``None``: it can be computed only at the start of the fit.
    """

    folder: Path
    anchor: str | None
    here: bool
    examples: Callable[[], list[dict[str, Tensor]]]
    labels: Labels = "empirical"
    seed: int = 0
    model: str | None = None

    def shards(self, module: nn.Module, state: State) -> dict[str, Tensor]:
        """This rank's shards, read from ``folder``, or computed and cached there. All ranks call it.

        Raises:
            DamagedStage: a file in ``folder`` is missing or was changed.
            ValueError: it is not in ``folder``, and the weights it belongs to are no longer available.
        """
        with exclusively(self.folder, log.info):
            if not dist.all_gather_object(self.folder.is_dir())[0]:
                self._compute(module, state)
        return read_shards(module, verify_checksums(self.folder))

    def _compute(self, module: nn.Module, state: State) -> None:
        """Computes it at its weights, which temporarily replace those of ``module``."""
        parameters, original = trained_shards(module), None
        if not self.here or state.timestamp.batch.value > 0:
            if self.model is None:
                raise ValueError(
                    f"{self.folder} has no Fisher information, and the weights it belongs to are no longer available"
                )
            original = {name: shard.clone() for name, shard in parameters.items()}
            _copy_into(parameters, read_shards(module, Path(self.model)))
        training, half = module.training, getattr(module, "cpu_bf16", False)
        module.eval()
        if half:
            module.cpu_bf16 = False  # type: ignore[assignment]
        examples = (state.device.batch_to_device(example) for example in self.examples())
        write_shards(module, diagonal(module, examples, self.labels, self.seed), self.folder)
        if half:
            module.cpu_bf16 = True  # type: ignore[assignment]
        module.train(training)
        if original is not None:
            _copy_into(parameters, original)


@torch.no_grad()
def _copy_into(shards: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, shard in shards.items():
        shard.copy_(values[name])
