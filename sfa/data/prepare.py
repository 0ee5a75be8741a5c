"""A task's rows as packed tokens, made once and kept by content."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from composer.utils import dist
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sfa.data.batches import collate
from sfa.data.packing import Packed, alone, encode, encode_pairs, pack
from sfa.data.source import shuffled
from sfa.data.task import Row, Task
from sfa.data.template import Template
from sfa.store import fingerprint


def prepare(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    seq_len: int,
    seed: int,
    cache: Path,
    template: Template = "plain",
    pairs: bool = False,
) -> tuple[Packed, int]:
    """The training sequences of all rows of ``tasks``, read from ``cache`` if the same rows were tokenized before.

    Args:
        tasks: one, or several to be mixed.
        tokenizer: of the model.
        seq_len: tokens of a sequence.
        seed: of the packing.
        cache: folder of what was tokenized before.
        template: how a prompt is shown to the model.
        pairs: whether the model is an encoder-decoder, whose rows are not packed.

    Returns:
        The sequences, and how many rows were truncated to ``seq_len``.

    Raises:
        ValueError: a task has no rows.
    """
    about = {"tasks": [task.data_spec() for task in tasks], "template": template, "pairs": pairs, "seq_len": seq_len}
    about |= {"tokenizer": tokenizer.backend_tokenizer.to_str(), "chat": tokenizer.chat_template, "seed": seed, "v": 2}
    file = cache / f"{'+'.join(task.name for task in tasks)[:64]}-{fingerprint(about)}.safetensors"
    if not file.exists() and dist.get_local_rank() == 0:
        rows = [row for task in tasks for row in _rows(task)]
        if pairs:
            packed, truncated = encode_pairs(rows, tokenizer, seq_len, template)
        else:
            examples, truncated = encode(rows, tokenizer, seq_len, template)
            packed = pack(examples, seq_len, int(tokenizer.pad_token_id), seed)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file(packed, temporary, metadata={"truncated": str(truncated)})
        temporary.replace(file)
    dist.barrier()
    with safe_open(file, framework="np") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, int(stream.metadata()["truncated"])  # noqa: SIM118


def single_examples(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    seq_len: int,
    count: int,
    seed: int,
    template: Template = "plain",
    pairs: bool = False,
) -> list[dict[str, Tensor]]:
    """``count`` training rows of a task, drawn with a seed, each a batch of one whose loss is the summed negative
    log-likelihood of its response."""
    rows = shuffled(_rows(task), count, seed)
    if pairs:
        sequences, _ = encode_pairs(rows, tokenizer, seq_len, template)
    else:
        examples, _ = encode(rows, tokenizer, seq_len, template)
        sequences = alone(examples, int(tokenizer.pad_token_id))
    found = []
    for i in range(len(rows)):
        one = collate([{name: torch.as_tensor(array[i]) for name, array in sequences.items()}])
        if not pairs:
            one = {name: x[:, : int(one["tokens"])] if x.ndim > 1 else x for name, x in one.items()}
        found.append({**one, "weight": torch.ones(1)})
    return found


def _rows(task: Task) -> list[Row]:
    rows = task.rows("train")
    if not rows:
        raise ValueError(f"{task.name} has no rows to train on")
    return rows
