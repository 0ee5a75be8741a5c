"""Trains a stream's tokenizer, for models with random weights."""

from collections.abc import Sequence

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sfa.data import Task

END = "<|endoftext|>"


def train_tokenizer(vocab_size: int, tasks: Sequence[Task]) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer trained on the training rows of ``tasks``; digits are single tokens."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = [row for task in tasks for row in task.rows("train")]
    tokenizer.train_from_iterator((f"{row['prompt']} {row['response']}" for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
