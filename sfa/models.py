"""Models with their tokenizers or image processors, from a config or from a folder in Hugging Face format."""

import contextlib
import difflib
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from sfa.data import Task
from sfa.data.template import Layout
from sfa.data.tokens import Encoder
from sfa.kinds import image_size, is_encoder_decoder, is_image_classifier, kind_of, position_count
from sfa.model_files import read_settings, refuse_special_files, weight_files
from sfa.pretrained import ModelError, read, refuse_adapters
from sfa.schema import LoRA, Model
from sfa.tensors import locations
from sfa.tryout import try_image, try_text

MOST_LAYERS = 1000
END = "<|endoftext|>"
NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # a model brings weights and settings, never code that is run
ADAPTERS = "adapter_model.safetensors"


def build(
    model: Model,
    seed: int,
    tokenizer_tasks: Sequence[Task],
    classes: int | None = None,
    tell: Callable[[str], None] = print,
) -> tuple[Any, Any]:
    """The model that a stream starts from, float32 on CPU.

    Args:
        model: of the config.
        seed: of whatever is random: weights, adapters, a new head.
        tokenizer_tasks: that a tokenizer of its own is trained on.
        classes: labels of an image classifier; ``None`` for a language model.
        tell: is given a line where a pretrained classifier gets a new head.

    Returns:
        The model, with new adapters if the config asks for LoRA, and its tokenizer or image processor.

    Raises:
        ModelError: a pretrained model is not there, has no safetensors, lacks tensors or has others, or needs code of
            its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if classes is not None:
            return _build_classifier(model, classes, tell)
        if model.name is None:
            assert model.tokenizer is not None, "the config demands one beside an architecture"
            processor = train_tokenizer(model.tokenizer.vocab_size, tokenizer_tasks)
        with told(model.name or str(model.architecture)):
            if model.name is None:
                config = _config(model, len(processor))
                built = kind_of(config)(config).float()
            else:
                config = _config(model, None)
                processor = AutoTokenizer.from_pretrained(model.name, revision=model.revision, **NO_CODE)
                built = read(kind_of(config), model.name, revision=model.revision)
                built = _with_adapters(built, model.lora, model.revision) if model.lora else built
            try_text(built, processor)
        return built, processor


def parameter_count(model: Model, classes: int | None = None) -> int:
    """Number of parameters, from the configuration alone, without adapters.

    Raises:
        OSError: the configuration of a pretrained model cannot be had, for example because the hub is off.
        ModelError: no model can be built from it.
    """
    return _outline(model.model_dump_json(exclude={"template", "lora"}), classes).parameters


def has_noise(model: Model, classes: int | None = None) -> bool:
    """Whether a training of the model draws random numbers or takes statistics over its batch, so that its weights
    depend on how batches are split over ranks and microbatches: dropout, batch normalisation. ``False`` if the
    configuration of a pretrained model cannot be had.

    Raises:
        ModelError: no model can be built from it.
    """
    try:
        return _outline(model.model_dump_json(exclude={"template", "lora"}), classes).noise
    except OSError:
        return False  # and there is no model to train


class _Outline(NamedTuple):
    parameters: int
    noise: bool


@functools.lru_cache
def _outline(described: str, classes: int | None) -> _Outline:
    """What a model's configuration tells, without its weights."""
    model = Model.model_validate_json(described)
    try:
        config = _config(model, model.tokenizer.vocab_size if model.tokenizer else None, classes)
        kind = kind_of(config)  # imported before the device changes: torch 2.7
        with torch.device("meta"):
            empty = kind(config)
    except (OSError, ModelError):
        raise
    except Exception as error:  # each architecture checks its configuration in its own way
        raise ModelError(_one_line(error)) from error
    by_batch = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in empty.modules())
    return _Outline(sum(p.numel() for p in empty.parameters()), by_batch or _has_dropout(config.to_dict()))


def _has_dropout(settings: dict[str, Any]) -> bool:
    """Whether a probability of dropping something, or a jitter, is above 0 in a configuration or a part of it; those of
    heads that classify texts are of no use here."""
    named = [(str(name), value) for name, value in settings.items() if isinstance(value, float)]
    own = any(
        value > 0 and ("drop" in name or "jitter" in name) and not ("classifier" in name or "summary" in name)
        for name, value in named
    )
    return own or any(_has_dropout(value) for value in settings.values() if isinstance(value, dict))


def faults(model: Model, classes: int | None, seq_len: int) -> list[str]:
    """What is wrong with a model of random weights, or with one in a folder, as far as its configuration tells.

    Args:
        model: of the config.
        classes: labels of the images it is to classify; ``None`` for text.
        seq_len: tokens of the longest sequence it is to be trained on.

    Returns:
        Lines of a config's error, ``key: what``.
    """
    key = "model.name" if model.architecture is None else "model.config"
    if model.architecture is not None and model.architecture not in CONFIG_MAPPING:
        near = difflib.get_close_matches(model.architecture, list(CONFIG_MAPPING), 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return [f"model.architecture: {model.architecture!r} is no model type of transformers{hint}"]
    vocab_size = model.tokenizer.vocab_size if model.tokenizer else None
    try:
        if model.name is not None:
            refuse_adapters(Path(model.name))
        config = _config(model, vocab_size, classes)
        if is_image_classifier(config) == (classes is None):
            wanted = "no language model" if classes is None else "no image classifier"
            return [f"{key}: {config.model_type} is {wanted}, and the tasks need one"]
        parameter_count(model, classes)
        if classes is not None and model.name is None:
            image_size(config)
    except Exception as error:  # each architecture checks its configuration in its own way
        return [f"{key}: no model can be built: {_one_line(error)}"]
    if model.name is not None:
        try:
            weight_files(Path(model.name))
        except (OSError, ValueError) as error:
            return [f"model.name: {_one_line(error)}"]
    found = [f"model.config.{name}: {model.architecture} knows no such key" for name in _ignored(model.config, config)]
    if classes is not None:
        return found + ([] if model.architecture is None else _image_faults(config))
    if vocab_size is not None and config.vocab_size < vocab_size:
        found.append(f"{key}.vocab_size: {config.vocab_size} is less than the tokenizer's {vocab_size}")
    positions = position_count(config)
    if positions is not None and seq_len > positions:
        found.append(f"train.seq_len: {seq_len} is longer than the {positions} positions that the model has")
    return found


def _image_faults(config: Any) -> list[str]:
    """What is wrong with a classifier of random weights, whose image processor is made from its configuration."""
    channels, _, _ = image_size(config)
    if channels not in (1, 3):
        return [f"model.config.num_channels: must be 1 or 3, not {channels}"]
    return []


def check(folder: Path, seq_len: int, layout: Layout) -> None:
    """Checks that the model in a folder can be trained as it is asked to.

    Raises:
        ModelError: the tokenizer has more tokens than the model or no end of text, its chat template is not there or
            cannot show what it is to show, or a sequence is longer than the model.
    """
    processor = read_processor(folder)
    if not isinstance(processor, PreTrainedTokenizerBase):
        return
    adapters = folder / "adapter_config.json"
    name = json.loads(adapters.read_text())["base_model_name_or_path"] if adapters.is_file() else folder
    config = AutoConfig.from_pretrained(name, **NO_CODE)
    positions, tokens = position_count(config), len(processor)
    if tokens > config.vocab_size:
        raise ModelError(f"the tokenizer has {tokens} tokens and the model embeddings for {config.vocab_size}")
    if processor.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-text token, so no response would end")
    try:
        Encoder(processor, layout, is_encoder_decoder(config))
    except ValueError as error:
        raise ModelError(_one_line(error)) from error
    if positions is not None and seq_len > positions:
        raise ModelError(f"train.seq_len: {seq_len} is longer than the {positions} positions that the model has")


def _ignored(options: dict[str, Any], config: Any) -> list[str]:
    """Those of ``options`` that a configuration keeps but knows nothing of."""
    known = {*inspect.signature(type(config).__init__).parameters, *inspect.signature(PreTrainedConfig).parameters}
    if is_image_classifier(config):
        known.add("image_size")  # that of the images, for a model that takes any
    return [name for name in options if name in vars(config) and name not in known | set(config.attribute_map)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_model(folder: Path | str) -> Any:
    """The ``transformers`` model in a folder (or of a hub name), float32 on CPU; adapters lie on the model that they
    were made for.

    Raises:
        ModelError: tensors are missing from its files or do not fit the configuration, or files are damaged.
        OSError: there is no such model.
    """
    refuse_pickled_adapters(folder)
    if (Path(folder) / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict

        adapters = PeftConfig.from_pretrained(str(folder))
        name, revision = str(adapters.base_model_name_or_path), adapters.revision
        refuse_pickled_adapters(name, revision)
        kind = kind_of(AutoConfig.from_pretrained(name, revision=revision, **NO_CODE))
        adapted = PeftModel.from_pretrained(read(kind, name, revision=revision), str(folder), is_trainable=True)
        odd = locations(Path(folder)).keys() ^ get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if odd:
            raise ModelError(f"the adapters in {folder} and their configuration differ in tensors: {sorted(odd)[:3]}")
        return adapted
    return read(kind_of(AutoConfig.from_pretrained(folder, **NO_CODE)), str(folder))


def refuse_pickled_adapters(name: Path | str, revision: str | None = None) -> None:
    """Adapters are read from safetensors alone; peft and transformers would take a pickle where there are none.

    Raises:
        ModelError: the model in a folder, or of a hub name, has adapters that are no safetensors.
    """
    if find_adapter_config_file(str(name), revision=revision) is None:
        return
    there = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(str(name), ADAPTERS, revision=revision, **there) is None:
        raise ModelError(f"{name} has adapters and no {ADAPTERS}: other files of weights are pickles, and are not read")


def read_processor(folder: Path | str) -> Any:
    """The tokenizer or image processor in a model's folder. A tokenizer without a pad token pads with its end of
    text."""
    if (Path(folder) / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _with_adapters(model: Any, lora: LoRA, revision: str | None = None) -> Any:
    """``model`` with new adapters, which name the revision that it is of."""
    from peft import LoraConfig, get_peft_model

    task = "SEQ_2_SEQ_LM" if is_encoder_decoder(model.config) else "CAUSAL_LM"
    options: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    options |= {"target_modules": lora.target_modules, "revision": revision}
    return get_peft_model(model, LoraConfig(task_type=task, **options))


def _build_classifier(model: Model, classes: int, tell: Callable[[str], None]) -> tuple[Any, Any]:
    with told(model.name or str(model.architecture)):
        config = _config(model, None, classes)
        kind = kind_of(config)
        if model.name is not None:
            built = read(kind, model.name, tell, config=config, revision=model.revision)
            processor = AutoImageProcessor.from_pretrained(model.name, revision=model.revision, **NO_CODE)
        else:
            channels, height, width = image_size(config)
            half, size = [0.5] * channels, {"height": height, "width": width}
            built = kind(config).float()
            processor = ViTImageProcessor(size=size, image_mean=half, image_std=half)
        try_image(built, processor, classes)
    return built, processor


def _refuse_sizes(settings: dict[str, Any]) -> None:
    """Raises a ModelError for more layers than can be built: ``transformers`` makes lists as long as that at once."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _refuse_sizes(value)
        elif re.search(r"layer|depth|block", key) and isinstance(value, int) and value > MOST_LAYERS:
            raise ModelError(f"{key} of {value} is more than can be built: at most {MOST_LAYERS}")


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Turns what goes wrong inside into a :class:`ModelError`: the hub and each architecture raise in their own way."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model {name} cannot be used: {_one_line(error)}") from error


def _config(model: Model, vocab_size: int | None, classes: int | None = None) -> Any:
    _refuse_sizes(model.config)
    if model.name is not None:
        refuse_pickled_adapters(model.name, model.revision)
        if Path(model.name).is_dir():
            refuse_special_files(Path(model.name))
            file = Path(model.name) / "config.json"
            _refuse_sizes(read_settings(file) if file.is_file() else {})
        labels = {} if classes is None else {"num_labels": classes}
        return AutoConfig.from_pretrained(model.name, revision=model.revision, **NO_CODE, **labels)
    if classes is not None:
        assert model.architecture is not None, "the config demands one or the other"
        return AutoConfig.for_model(model.architecture, **{**model.config, "num_labels": classes})
    special = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    special["decoder_start_token_id"] = 0  # of an encoder-decoder
    assert model.architecture is not None, "the config demands one or the other"
    return AutoConfig.for_model(model.architecture, **{**special, **model.config})
