"""The diagonal of the Fisher information, on this rank's shards, kept beside the stage it was taken at."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from composer.core import State
from torch import Tensor, nn

from sfa.anchor import local, trained_shards
from sfa.finite import check
from sfa.store import unsealed
from sfa.weights import read_shards, write_shards

Labels = Literal["empirical", "sampled"]


def diagonal(model: Any, examples: Iterable[dict[str, Tensor]], labels: Labels, seed: int = 0) -> dict[str, Tensor]:
    """Mean over ``examples`` of the squared gradient of −log p(labels | input) for every trained parameter (Kirkpatrick
    et al., 2017). All ranks pass the same examples; the result is this rank's shards.

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
    total = {name: torch.zeros_like(shard) for name, shard in trained_shards(model).items()}
    count = 0
    for example in examples:
        model.zero_grad(set_to_none=True)
        output = model(example)
        answered = model.sampled(output, example, generator) if labels == "sampled" else example
        model.loss(output, answered).backward()
        count += 1
        for name, parameter in model.named_parameters():
            if name in total and parameter.grad is not None:
                gradient = local(parameter.grad)
                total[name].addcmul_(gradient, gradient)
    model.zero_grad(set_to_none=True)
    mean = {name: tensor.div_(max(count, 1)) for name, tensor in total.items()}
    check(mean, "Fisher information")
    return mean


@dataclass(frozen=True)
class Fisher:
    """Fisher information of one task.

    Attributes:
        folder: where it is kept, or will be.
        anchor: folder of the model that its pull is to; ``None`` is θ_o, the weights at the start of the fit.
        here: whether it is to be taken at the weights at the start of the fit, if it is not in ``folder``.
        examples: gives the task's examples for that.
        labels: see :func:`diagonal`.
        seed: of sampled labels.
    """

    folder: Path
    anchor: str | None
    here: bool
    examples: Callable[[], list[dict[str, Tensor]]]
    labels: Labels = "empirical"
    seed: int = 0

    def shards(self, module: nn.Module, state: State) -> dict[str, Tensor]:
        """This rank's shards, read from ``folder``, or computed at the module's present weights and kept there.

        Raises:
            DamagedStage: a file in ``folder`` is not the one that was written.
            ValueError: it is not in ``folder``, and the module's weights are no longer those it would be taken at.
        """
        if not self.folder.is_dir():
            if not self.here or state.timestamp.batch.value > 0:
                raise ValueError(f"{self.folder} holds no Fisher information, and the weights it belongs to are gone")
            training = module.training
            module.eval()
            examples = (state.device.batch_to_device(example) for example in self.examples())
            write_shards(module, diagonal(module, examples, self.labels, self.seed), self.folder)
            module.train(training)
        return read_shards(module, unsealed(self.folder))
