"""Rows of text as arrays of token ids."""

import json
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from composer.utils import dist
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sfa.data.array_cache import built_once, names, versions
from sfa.data.batches import collate
from sfa.data.packing import Arrays, Example, LongRows, encode, encode_seq2seq, none_fits, pack, pad_each
from sfa.data.source import shuffled, usable
from sfa.data.task import Row, Task
from sfa.data.tokens import Encoder
from sfa.store import fingerprint, identity, verify_checksums
from sfa.values import Spec

PLACE = (
    "name_or_path",
    "_commit_hash",
    "is_local",
    "local_files_only",
)  # a tokenizer's settings that say where it was loaded from
ALIKE = 16  # example lengths are rounded up to multiples, so that several are equal and can be batched

Encoded = TypeVar("Encoded")  # the rows of a task


class TextArrays(ABC, Generic[Encoded]):
    """Builds the sequences of tokens that a language model takes.

    Args:
        encoder: the model's encoder.
        seq_len: tokens of a sequence.
        long_rows: how longer rows are handled.
        packs: whether sequences hold several examples, or one each.
    """

    def __init__(self, encoder: Encoder, seq_len: int, long_rows: LongRows = "drop", packs: bool = True):
        self.encoder, self.seq_len, self.long_rows, self.packs = encoder, seq_len, long_rows, packs

    @abstractmethod
    def encode(self, rows: Sequence[Row], name: str) -> tuple[Encoded, int, int]:
        """Token ids of the rows that are not left out, their number, and how many of them were cut; errors refer to
        the rows by ``name``.

        Raises:
            SourceError: a row cannot be used.
        """

    @abstractmethod
    def join(self, encoded_tasks: Sequence[Encoded], seed: int) -> Arrays:
        """The sequences of several tasks, mixed with a seed."""

    @abstractmethod
    def separate(self, encoded: Encoded) -> Arrays:
        """Sequences of one example each, in the order of the rows."""

    @abstractmethod
    def batch_of_one(self, sequence: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of one of these sequences, with little padding."""

    def training(self, tasks: Sequence[Task], seed: int, cache: Path) -> tuple[list[Arrays], dict[str, int]]:
        encoder = self.encoder
        about: Spec = {"tasks": [task.data_spec() for task in tasks], "template": encoder.layout.template}
        about |= {**encoder.layout.extras(), "pairs": encoder.seq2seq, "packs": self.packs, "long_rows": self.long_rows}
        about |= {"tokenizer": content(encoder.tokenizer), "seq_len": self.seq_len, "seed": seed, "v": 3}
        about |= {"versions": versions("tokenizers", "transformers")}
        folder = cache / f"{names(tasks)}-{fingerprint(about)}"
        if dist.get_local_rank() == 0:
            with built_once(folder, tasks, about["tasks"]) as temporary:
                if temporary is not None:
                    arrays, changed = self._sequences(tasks, seed)
                    counts = {what: str(n) for what, n in changed.items()}
                    save_file(arrays, temporary / "packed.safetensors", metadata=counts)
        dist.barrier()
        with safe_open(verify_checksums(folder) / "packed.safetensors", framework="np") as stream:
            return [{name: stream.get_tensor(name) for name in stream.keys()}], {  # noqa: SIM118
                what: int(n) for what, n in stream.metadata().items()
            }

    def _sequences(self, tasks: Sequence[Task], seed: int) -> tuple[Arrays, dict[str, int]]:
        """The sequences of the tasks' training rows, and how many rows were dropped and cut."""
        encoded_tasks, changed = [], {"dropped": 0, "cut": 0}
        for task in tasks:
            rows = usable(task.rows("train"), task.name)
            encoded, encoded_count, cut = self.encode(rows, task.name)
            if not encoded_count:
                raise none_fits(task.name, self.seq_len)
            encoded_tasks.append(encoded)
            changed["dropped"] += len(rows) - encoded_count
            changed["cut"] += cut
        return self.join(encoded_tasks, seed), changed

    def examples(self, task: Task, count: int, seed: int) -> list[dict[str, Tensor]]:
        rows = shuffled(usable(task.rows("train"), task.name), count, seed)
        encoded, encoded_count, _ = self.encode(rows, task.name)
        if not encoded_count:
            raise none_fits(task.name, self.seq_len)
        sequences = self.separate(encoded)
        items = [{name: torch.as_tensor(array[i]) for name, array in sequences.items()} for i in range(encoded_count)]
        return [{**self.batch_of_one(item), "weight": torch.ones(1)} for item in items]


class DecoderArrays(TextArrays[list[Example]]):
    """Prompt and response in one sequence, or several examples in one if packed."""

    def encode(self, rows: Sequence[Row], name: str) -> tuple[list[Example], int, int]:
        examples, cut = encode(rows, self.encoder, self.seq_len, self.long_rows, name)
        return examples, len(examples), cut

    def join(self, tasks_examples: Sequence[list[Example]], seed: int) -> Arrays:
        examples = [example for task_examples in tasks_examples for example in task_examples]
        return pack(examples, self.seq_len, self._pad(), seed) if self.packs else self.separate(examples)

    def separate(self, encoded: list[Example]) -> Arrays:
        return pad_each(encoded, self._pad())

    def batch_of_one(self, sequence: dict[str, Tensor]) -> dict[str, Tensor]:
        length = math.ceil(int(sequence["tokens"]) / ALIKE) * ALIKE
        return {name: tensor[None, :length] for name, tensor in sequence.items() if name != "tokens"}

    def _pad(self) -> int:
        return int(self.encoder.tokenizer.pad_token_id)


class EncoderDecoderArrays(TextArrays[Arrays]):
    """Prompts and responses in separate sequences."""

    def encode(self, rows: Sequence[Row], name: str) -> tuple[Arrays, int, int]:
        arrays, cut = encode_seq2seq(rows, self.encoder, self.seq_len, self.long_rows, name)
        return arrays, len(arrays["labels"]), cut

    def join(self, tasks_arrays: Sequence[Arrays], seed: int) -> Arrays:
        return {name: np.concatenate([task_arrays[name] for task_arrays in tasks_arrays]) for name in tasks_arrays[0]}

    def separate(self, encoded: Arrays) -> Arrays:
        return encoded

    def batch_of_one(self, sequence: dict[str, Tensor]) -> dict[str, Tensor]:
        return collate([sequence])


def content(tokenizer: PreTrainedTokenizerBase) -> Spec:
    """Everything that a tokenizer would save, by file: vocabulary, special tokens, settings, chat template. Without its
    origin and the padding and truncation of its last call, which it saves as well."""
    files: Spec = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            name = str(file.relative_to(folder))
            files[name] = json.loads(file.read_text()) if file.suffix == ".json" else identity(file)
    for unrelated in ("padding", "truncation"):
        files.get("tokenizer.json", {}).pop(unrelated, None)
    unrelated_settings = (*PLACE, "max_length", "stride", "truncation_strategy")
    settings = files.get("tokenizer_config.json", {}).items()
    portable = {key: value for key, value in settings if value is not None and key not in unrelated_settings}
    return {**files, "tokenizer_config.json": portable}
