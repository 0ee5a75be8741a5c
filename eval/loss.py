"""The loss on held-out rows, as in training: cross-entropy over the tokens of the responses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sfa.composer_model import StageModel
from sfa.data.batches import collate
from sfa.data.packing import IGNORED, alone, encode, encode_pairs
from sfa.data.task import Row
from sfa.data.template import Template


def row_losses(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    seq_len: int,
    batch_size: int,
    template: Template,
    bf16: bool,
) -> NDArray[np.float64]:
    """Summed loss and number of learned tokens of each row, ``[n, 2]``. Rows are cut to ``seq_len`` as in training."""
    device = next(model.parameters()).device
    stage_model = StageModel(model, tokenizer, cpu_bf16=bf16)
    if stage_model.pairs:
        sequences, _ = encode_pairs(rows, tokenizer, seq_len, template)
    else:
        examples, _ = encode(rows, tokenizer, seq_len, template)
        sequences = alone(examples, int(tokenizer.pad_token_id))
    found = []
    for start in range(0, len(rows), batch_size):
        part = range(start, min(start + batch_size, len(rows)))
        batch = collate([{name: torch.as_tensor(array[i]) for name, array in sequences.items()} for i in part])
        if not stage_model.pairs:
            length = int(batch["tokens"].max())
            batch = {name: x[:, :length] if x.ndim > 1 else x for name, x in batch.items()}
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=bf16 and device.type == "cuda"):
            losses = stage_model.sequence_losses(stage_model(batch), batch)
        found.append(torch.stack([losses.cpu(), (batch["labels"] != IGNORED).sum(1).cpu()], 1))
    return torch.cat(found).double().numpy()
