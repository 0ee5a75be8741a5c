"""Rows of text to packed sequences of tokens, without attention across examples."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sfa.data.task import Row

IGNORED = -100  # the label of a token that is not learned


class Example(TypedDict):
    """Token ids of one row, and its labels: ``IGNORED`` over the prompt."""

    input_ids: list[int]
    labels: list[int]


# Sequences, int64: ``input_ids``, ``labels`` and ``position_ids`` ``[n, seq_len]``, and ``tokens`` ``[n]``, how many
# are not padding. Positions start again at every example: that is how attention is kept inside it. The empty end of a
# sequence is one more example, of pad tokens that are not learned.
Packed = dict[str, NDArray[np.int64]]


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, seq_len: int) -> tuple[list[Example], int]:
    """Tokenizes ``prompt``, one space, ``response`` and the end-of-text token; only response and end are learned.

    A row longer than ``seq_len`` loses the start of its prompt, and the end of its response if that alone is too long.

    Returns:
        The examples, and how many of them were cut.
    """
    prompts = tokenizer([row["prompt"] for row in rows], add_special_tokens=False)["input_ids"]
    responses = tokenizer([" " + row["response"] for row in rows], add_special_tokens=False)["input_ids"]
    examples: list[Example] = []
    truncated = 0
    for prompt, response in zip(prompts, responses, strict=True):
        truncated += len(prompt) + len(response) + 1 > seq_len
        learned = response[: seq_len - 2] + [tokenizer.eos_token_id]
        given = prompt[max(0, len(prompt) + len(learned) - seq_len) :]
        examples.append({"input_ids": given + learned, "labels": [IGNORED] * len(given) + learned})
    return examples, truncated


def pack(examples: Sequence[Example], seq_len: int, pad: int, seed: int) -> Packed:
    """Fills sequences of ``seq_len`` tokens with whole examples in a seeded order, each into the first of the last
    sequences that has room.

    Args:
        examples: none longer than ``seq_len``.
        seq_len: tokens of a sequence.
        pad: token of the empty ends.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    bins: list[list[int]] = []
    room: list[int] = []
    first = 0  # sequences before it are closed
    for i in order:
        need = len(examples[i]["input_ids"])
        into = next((b for b in range(first, len(bins)) if room[b] >= need), None)
        if into is None:
            bins.append([])
            room.append(seq_len)
            into = len(bins) - 1
            first = max(first, len(bins) - 64)
        bins[into].append(int(i))
        room[into] -= need
    packed = {
        "input_ids": np.full((len(bins), seq_len), pad, np.int64),
        "labels": np.full((len(bins), seq_len), IGNORED, np.int64),
        "position_ids": np.zeros((len(bins), seq_len), np.int64),
        "tokens": seq_len - np.array(room, np.int64),
    }
    for b, members in enumerate(bins):
        start = 0
        for i in members:
            end = start + len(examples[i]["input_ids"])
            packed["input_ids"][b, start:end] = examples[i]["input_ids"]
            packed["labels"][b, start:end] = examples[i]["labels"]
            packed["labels"][b, start] = IGNORED  # nothing comes before it
            packed["position_ids"][b, start:end] = np.arange(end - start)
            start = end
        packed["position_ids"][b, start:] = np.arange(seq_len - start)
    return packed
