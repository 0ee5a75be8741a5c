"""A task's rows as packed tokens, made once and kept by content."""

import os
from pathlib import Path

from composer.utils import dist
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from sfa.data.packing import Packed, encode, pack
from sfa.data.task import Task
from sfa.store import fingerprint


def prepare(task: Task, tokenizer: PreTrainedTokenizerBase, seq_len: int, seed: int, cache: Path) -> tuple[Packed, int]:
    """The packed training sequences of a task, read from ``cache`` if the same rows were packed before.

    Returns:
        The sequences, and how many rows were truncated to ``seq_len``.

    Raises:
        ValueError: the task has no rows.
    """
    vocabulary = tokenizer.backend_tokenizer.to_str()
    key = fingerprint({"task": task.data_spec(), "tokenizer": vocabulary, "seq_len": seq_len, "seed": seed, "v": 1})
    file = cache / f"{task.name}-{key}.safetensors"
    if not file.exists() and dist.get_local_rank() == 0:
        rows = task.rows("train")
        if not rows:
            raise ValueError(f"{task.name} has no rows to train on")
        examples, truncated = encode(rows, tokenizer, seq_len)
        packed = pack(examples, seq_len, int(tokenizer.pad_token_id), seed)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file(packed, temporary, metadata={"truncated": str(truncated)})
        temporary.replace(file)
    dist.barrier()
    with safe_open(file, framework="np") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, int(stream.metadata()["truncated"])  # noqa: SIM118
