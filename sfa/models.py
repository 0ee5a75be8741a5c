"""Models and tokenizers, from a config or from a folder in Hugging Face format."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sfa.config import Model, Tokenizer
from sfa.data import TASKS

END = "<|endoftext|>"


def build(model: Model, seed: int) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model that a stream starts from, float32 on CPU, and its tokenizer."""
    if model.name is not None:
        pretrained = AutoTokenizer.from_pretrained(model.name, revision=model.revision)
        return AutoModelForCausalLM.from_pretrained(
            model.name, revision=model.revision, dtype=torch.float32, use_safetensors=True
        ), pretrained
    assert model.tokenizer is not None, "the config demands one beside an architecture"
    tokenizer = train_tokenizer(model.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(_config(model, len(tokenizer)), dtype=torch.float32), tokenizer


def parameter_count(model: Model) -> int:
    """Number of parameters, from the configuration alone.

    Raises:
        OSError: the configuration of a pretrained model cannot be had, for example because the hub is off.
    """
    vocab = model.tokenizer.vocab_size if model.tokenizer else None
    config = _config(model, vocab)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # imported before the device changes: torch 2.7
    with torch.device("meta"):
        empty = kind(config)
    return sum(p.numel() for p in empty.parameters())


def read_model(folder: Path) -> Any:
    """The ``transformers`` model in a folder, float32 on CPU, of the class that its ``config.json`` names.

    Raises:
        ValueError: weights are missing from the folder, or do not fit the configuration.
    """
    config = AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model, info = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    wrong = {what: sorted(names) for what, names in info.items() if names}
    if wrong:
        raise ValueError(f"the weights in {folder} do not fit its configuration: {wrong}")
    return model


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; one without a pad token pads with its end of text."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def train_tokenizer(settings: Tokenizer) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer trained on the training rows of ``settings.train_on``; digits are single tokens."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = [row for name in sorted(set(settings.train_on)) for row in TASKS[name]().rows("train")]
    tokenizer.train_from_iterator((f"{row['prompt']} {row['response']}" for row in rows), trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _config(model: Model, vocab_size: int | None) -> Any:
    if model.name is not None:
        return AutoConfig.from_pretrained(model.name, revision=model.revision)
    special = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    assert model.architecture is not None, "the config demands one or the other"
    return AutoConfig.for_model(model.architecture, **{**special, **model.config})
