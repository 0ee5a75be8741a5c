"""Whether a decoder isolates the examples of a packed sequence, tested with a forward pass."""

import inspect
from typing import Any

import torch
from composer.utils import dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sfa.errors import one_line
from sfa.models.pretrained import ModelError

LENGTH = 6  # tokens of each of two examples, at most
# Relative to the logits' standard deviation. Over 115 architectures of transformers 5.23 with random weights, logits of
# those that isolate examples change by at most 1.5e-6 (mixtures of experts; others by 0), of the rest by at least 8e-3.
TOLERANCE = 1e-4


class NotCausal(ValueError):
    """A model whose predictions depend on the tokens to be predicted."""


def padding_reason(model: Any, tokenizer: PreTrainedTokenizerBase, length: int = LENGTH) -> str | None:
    """Why ``model`` cannot be trained on sequences that hold several examples; ``None`` if it can.

    The model is run on three sequences of two short examples with restarting ``position_ids``: the second has a
    different first example, the third a different last token.

    Args:
        model: a ``transformers`` decoder, on any device.
        tokenizer: the model's tokenizer, the source of ordinary tokens.
        length: tokens of an example; two must fit into the model.

    Raises:
        NotCausal: logits depend on later tokens, so that padding would not help either.
    """
    first, replacement, second, changed = _examples(model, tokenizer, length)
    changed = torch.cat([second[:-1], changed[-1:]])
    batch = torch.stack([torch.cat(pair) for pair in ((first, second), (replacement, second), (first, changed))])
    positions = torch.arange(length, device=batch.device).repeat(2).expand(len(batch), -1)
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason, logits = None, None
    if "position_ids" not in inspect.signature(bare.forward).parameters:
        reason = "it takes no position_ids"
    else:
        try:
            logits = _logits(model, batch, position_ids=positions)
        except Exception as error:  # each architecture raises its own errors; the reason is reported
            reason = f"it fails on restarting position_ids ({one_line(error)})"
    if logits is None:
        logits = _logits(model, batch)
    elif _differ(logits[0, length:], logits[1, length:]):
        reason = "its attention does not stop where position_ids restart"
    if _differ(logits[0, :-1], logits[2, :-1]):
        raise NotCausal("the model sees the tokens that it should predict; some need is_decoder: true in their config")
    return reason


def padding_reason_on_all_ranks(model: Any, tokenizer: PreTrainedTokenizerBase, length: int = LENGTH) -> str | None:
    """:func:`padding_reason`, computed on rank 0. Must be called on all ranks.

    Raises:
        ModelError: the model is not a decoder.
    """
    result: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            result[0] = padding_reason(model, tokenizer, length)
        except NotCausal as error:
            result[1] = str(error)
    dist.broadcast_object_list(result)
    if result[1] is not None:
        raise ModelError(result[1])
    return None if result[0] is None else str(result[0])


@torch.no_grad()
def _logits(model: Any, batch: Tensor, **options: Tensor) -> Tensor:
    training = model.training
    model.eval()
    try:
        logits: Tensor = model(input_ids=batch, use_cache=False, **options).logits
    finally:
        model.train(training)
    return logits.float()


def _differ(first: Tensor, second: Tensor) -> bool:
    """Whether logits differ by more than rounding; NaN counts as different."""
    return not bool((first - second).abs().max() <= TOLERANCE * first.std())


def _examples(model: Any, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tensor]:
    """Four different examples of ordinary tokens, ``[length]`` each."""
    size = min(len(tokenizer), int(model.config.get_text_config(decoder=True).vocab_size))
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ordinary = [i for i in range(size) if i not in special] or list(range(size))
    if len(ordinary) < 4:
        raise ValueError(f"a vocabulary of {len(ordinary)} tokens is too small to test a model with")
    apart = len(ordinary) // 4  # so that no two examples share a token at the same position
    chosen = [[ordinary[(3 * i + apart * k) % len(ordinary)] for i in range(length)] for k in range(4)]
    return list(torch.tensor(chosen, device=model.device))
