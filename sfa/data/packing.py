"""Rows of text to packed sequences of tokens, without attention across examples."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from sfa.data.source import SourceError
from sfa.data.task import Row
from sfa.data.tokens import Encoder, Pair

IGNORED = -100  # the label of a token that is not learned
LongRows = Literal["drop", "cut", "error"]


class Example(TypedDict):
    """Token ids of one row, and its labels: ``IGNORED`` over the prompt."""

    input_ids: list[int]
    labels: list[int]


# Sequences, int64. For a decoder: ``input_ids`` and ``labels`` ``[n, length]`` and, if several examples are packed into
# one sequence, ``position_ids``, which restart at every example and so keep attention within it. The empty end of a
# packed sequence is one more example, of pad tokens that are not learned. For an encoder-decoder, one row each:
# ``input_ids`` and ``attention_mask`` ``[n, seq_len]``, ``labels`` ``[n, seq_len]``. For both: ``tokens`` ``[n]``, the
# number of tokens that are not padding.
Arrays = dict[str, NDArray[np.int64]]


def encode(
    rows: Sequence[Row], encoder: Encoder, seq_len: int, long_rows: LongRows = "drop", name: str = "rows"
) -> tuple[list[Example], int]:
    """Prompt, response and its end token for a decoder; only response and end are learned.

    Returns:
        The examples of the rows that are not left out, and how many of them were cut: see :func:`fitting`.
    """
    if any("messages" in row for row in rows):
        return conversations(rows, encoder, seq_len, long_rows, name), 0
    encoded, cut = fitting(rows, encoder, seq_len, long_rows, name)
    return [{"input_ids": p + learned, "labels": [IGNORED] * len(p) + learned} for p, learned in encoded], cut


def conversations(rows: Sequence[Row], encoder: Encoder, seq_len: int, long_rows: LongRows, name: str) -> list[Example]:
    """Whole conversations for a decoder, of which every turn of the assistant and its end are learned. Those that are
    longer than ``seq_len`` are left out: none is cut.

    Raises:
        SourceError: one cannot be encoded, or is too long and ``long_rows`` is ``error``.
    """
    examples: list[Example] = []
    for number, row in enumerate(rows):
        turns = encoder.encode_turns(row["messages"], f"{name}: row {number}")
        ids = [i for prompt, learned in turns for i in prompt + learned]
        labels = [i for prompt, learned in turns for i in [IGNORED] * len(prompt) + learned]
        if len(ids) <= seq_len:
            examples.append({"input_ids": ids, "labels": labels})
        elif long_rows == "error":
            raise too_long(name, number, len(ids), seq_len)
    return examples


def encode_seq2seq(
    rows: Sequence[Row], encoder: Encoder, seq_len: int, long_rows: LongRows = "drop", name: str = "rows"
) -> tuple[Arrays, int]:
    """Rows for an encoder-decoder, one sequence each: the prompt for the encoder, the response and its end to learn.

    Returns:
        The sequences of the rows that are not left out, and how many of them were cut: see :func:`fitting`.
    """
    if any("messages" in row for row in rows):
        raise SourceError(f"{name}: conversations are for decoders, and the model is an encoder-decoder")
    encoded, cut = fitting(rows, encoder, seq_len, long_rows, name)
    shape = (len(encoded), seq_len)
    packed = {
        "input_ids": np.full(shape, encoder.tokenizer.pad_token_id, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
        "tokens": np.zeros(len(encoded), np.int64),
    }
    for i, (prompt, learned) in enumerate(encoded):
        packed["input_ids"][i, : len(prompt)] = prompt
        packed["attention_mask"][i, : len(prompt)] = 1
        packed["labels"][i, : len(learned)] = learned
        packed["tokens"][i] = len(prompt) + len(learned)
    return packed, cut


def fitting(
    rows: Sequence[Row], encoder: Encoder, seq_len: int, long_rows: LongRows, name: str
) -> tuple[list[Pair], int]:
    """Ids of prompts, and of responses with their end, that fit into ``seq_len`` tokens: together for a decoder,
    separately for an encoder-decoder.

    ``drop`` leaves out all longer rows. ``cut`` leaves out those whose response leaves less than a quarter of
    ``seq_len`` for the prompt's own text, and removes the middle of the other prompts. Responses are never cut: the
    model would learn to end them too early.

    Returns:
        The ids of the rows that are not left out, and how many of them were cut.

    Raises:
        SourceError: a row is too long and ``long_rows`` is ``error``.
    """
    fitting_pairs: list[Pair] = []
    cut = 0
    for number, (prompt, response) in enumerate(encoder.encode_rows(rows, name)):
        learned = response + encoder.end
        room = seq_len if encoder.seq2seq else seq_len - len(learned)
        if len(prompt) <= room and len(learned) <= seq_len:
            fitting_pairs.append((prompt, learned))
        elif long_rows == "error":
            length = max(len(prompt), len(learned)) if encoder.seq2seq else len(prompt) + len(learned)
            raise too_long(name, number, length, seq_len)
        elif long_rows == "cut" and len(learned) <= seq_len and encoder.room(room) >= seq_len // 4:
            fitting_pairs.append((encoder.cut(prompt, room), learned))
            cut += 1
    return fitting_pairs, cut


def too_long(name: str, number: int, length: int, seq_len: int) -> SourceError:
    """The error for a row that is longer than a sequence."""
    return SourceError(
        f"{name}: row {number} has {length:,} tokens, more than train.seq_len: {seq_len}; train.long_rows=drop leaves "
        "such rows out, cut takes the middle out of their prompts"
    )


def none_fits(name: str, seq_len: int) -> SourceError:
    """The error if all rows are left out."""
    hint = "train.long_rows=cut takes the middle out of prompts that are too long"
    return SourceError(f"{name}: no row fits into train.seq_len: {seq_len} tokens; {hint}")


def pack(examples: Sequence[Example], seq_len: int, pad: int, seed: int) -> Arrays:
    """Packs whole examples into sequences of ``seq_len`` tokens in a seeded order, each into the first of the latest
    sequences with room.

    Args:
        examples: none longer than ``seq_len``.
        seq_len: tokens of a sequence.
        pad: the padding token.
        seed: seed of the order.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    bins: list[list[int]] = []
    room: list[int] = []
    first = 0  # earlier sequences are closed
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


def pad_each(examples: Sequence[Example], pad: int) -> Arrays:
    """One example per sequence, padded at its end, where a decoder's learned tokens cannot attend to it."""
    lengths = [len(example["input_ids"]) for example in examples]
    shape = (len(examples), max(lengths, default=0))
    sequences = {
        "input_ids": np.full(shape, pad, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
        "tokens": np.array(lengths, np.int64),
    }
    for i, example in enumerate(examples):
        sequences["input_ids"][i, : len(example["input_ids"])] = example["input_ids"]
        sequences["labels"][i, : len(example["labels"])] = example["labels"]
    sequences["labels"][:, :1] = IGNORED
    return sequences
