"""The loss on held-out rows, as in training: cross-entropy over the tokens of the responses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfa.data.batches import collate
from sfa.data.packing import IGNORED
from sfa.data.task import Row
from sfa.data.text_arrays import TextArrays
from sfa.stages.composer_model import StageModel


def row_losses(
    model: Any, builder: TextArrays[Any], rows: Sequence[Row], batch_size: int, bf16: bool, name: str
) -> tuple[NDArray[np.float64], int]:
    """Summed loss and number of learned tokens of each row, ``[n, 2]``, and how many rows were cut. Rows that are too
    long are left out or cut as in training.

    Raises:
        SourceError: a row is too long, and ``long_rows`` is ``error``.
    """
    device = next(model.parameters()).device
    stage_model = StageModel(model, builder.encoder.tokenizer, cpu_bf16=bf16)
    encoded, count, cut = builder.encode(rows, name)
    sequences = builder.separate(encoded)
    losses_and_counts = [torch.zeros(0, 2)]
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        batch = collate([{name: torch.as_tensor(array[i]) for name, array in sequences.items()} for i in indices])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=bf16 and device.type == "cuda"):
            losses = stage_model.sequence_losses(stage_model(batch), batch)
        losses_and_counts.append(torch.stack([losses.cpu(), (batch["labels"] != IGNORED).sum(1).cpu()], 1))
    return torch.cat(losses_and_counts).double().numpy(), cut
