"""Rows of text to packed sequences of tokens, without attention across examples."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sfa.data.task import Row
from sfa.data.template import Template, has_bos, render, separator

IGNORED = -100  # the label of a token that is not learned


class Example(TypedDict):
    """Token ids of one row, and its labels: ``IGNORED`` over the prompt."""

    input_ids: list[int]
    labels: list[int]


# Sequences, int64. Of a decoder: ``input_ids``, ``labels`` and ``position_ids`` ``[n, seq_len]``. Positions start again
# at every example: that is how attention is kept inside it. The empty end of a sequence is one more example, of pad
# tokens that are not learned. Of an encoder-decoder, one row each: ``input_ids`` and ``attention_mask``
# ``[n, seq_len]``, ``labels`` ``[n, seq_len]``. Both: ``tokens`` ``[n]``, how many are not padding.
Packed = dict[str, NDArray[np.int64]]


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, seq_len: int, template: Template = "plain"
) -> tuple[list[Example], int]:
    """Tokenizes prompt, response and the end-of-text token for a decoder; only response and end are learned.

    A row longer than ``seq_len`` loses the start of its prompt, and the end of its response if that alone is too long.

    Returns:
        The examples, and how many of them were cut.
    """
    prompts, responses = _tokens(rows, tokenizer, template)
    examples: list[Example] = []
    truncated = 0
    for prompt, response in zip(prompts, responses, strict=True):
        truncated += len(prompt) + len(response) + 1 > seq_len
        learned = response[: seq_len - 2] + [tokenizer.eos_token_id]
        given = prompt[max(0, len(prompt) + len(learned) - seq_len) :]
        examples.append({"input_ids": given + learned, "labels": [IGNORED] * len(given) + learned})
    return examples, truncated


def encode_pairs(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, seq_len: int, template: Template = "plain"
) -> tuple[Packed, int]:
    """Tokenizes rows for an encoder-decoder, one sequence each: the prompt for the encoder, the response to learn.

    A prompt longer than ``seq_len`` loses its start, a response its end.

    Returns:
        The sequences, and how many rows were cut.
    """
    prompts, responses = _tokens(rows, tokenizer, template)
    shape = (len(rows), seq_len)
    packed = {
        "input_ids": np.full(shape, tokenizer.pad_token_id, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
        "tokens": np.zeros(len(rows), np.int64),
    }
    truncated = 0
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        given, learned = prompt[-seq_len:], response[: seq_len - 1] + [tokenizer.eos_token_id]
        truncated += len(given) < len(prompt) or len(learned) <= len(response)
        packed["input_ids"][i, : len(given)] = given
        packed["attention_mask"][i, : len(given)] = 1
        packed["labels"][i, : len(learned)] = learned
        packed["tokens"][i] = len(given) + len(learned)
    return packed, truncated


def _tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, template: Template
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the prompts, with the tokenizer's own special tokens, and of the responses, without."""
    texts = [render(row["prompt"], template, tokenizer) for row in rows]
    special = not (texts and has_bos(texts[0], tokenizer))
    responses = [separator(template) + row["response"] for row in rows]
    return (
        tokenizer(texts, add_special_tokens=special)["input_ids"],
        tokenizer(responses, add_special_tokens=False)["input_ids"],
    )


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


def alone(examples: Sequence[Example], pad: int) -> Packed:
    """One example a sequence, padded at its end, where a decoder's learned tokens cannot see it."""
    length = max(len(example["input_ids"]) for example in examples)
    sequences = {
        "input_ids": np.full((len(examples), length), pad, np.int64),
        "labels": np.full((len(examples), length), IGNORED, np.int64),
        "position_ids": np.tile(np.arange(length), (len(examples), 1)),
        "tokens": np.array([len(example["input_ids"]) for example in examples]),
    }
    for i, example in enumerate(examples):
        sequences["input_ids"][i, : len(example["input_ids"])] = example["input_ids"]
        sequences["labels"][i, : len(example["labels"])] = example["labels"]
    sequences["labels"][:, 0] = IGNORED
    return sequences
