"""Models with their tokenizers or image processors, from a config or from a folder in Hugging Face format."""

import difflib
import functools
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

import sfa.mlp  # noqa: F401  registers the architecture
from sfa.data import Task
from sfa.schema import LoRA, Model

MOST_LAYERS = 1000
END = "<|endoftext|>"
NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # a model brings weights and settings, never code that is run
WEIGHTS: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}  # other files of weights are pickles
ADAPTERS = "adapter_model.safetensors"


class ModelError(Exception):
    """A pretrained model that cannot be had or used."""


def build(model: Model, seed: int, tokenizer_tasks: Sequence[Task], classes: int | None = None) -> tuple[Any, Any]:
    """The model that a stream starts from, float32 on CPU.

    Args:
        model: of the config.
        seed: of whatever is random: weights, adapters, a new head.
        tokenizer_tasks: that a tokenizer of its own is trained on.
        classes: labels of an image classifier; ``None`` for a language model.

    Returns:
        The model, with new adapters if the config asks for LoRA, and its tokenizer or image processor.

    Raises:
        ModelError: a pretrained model is not there, has no safetensors, or needs code of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if classes is not None:
            return _build_classifier(model, classes)
        if model.name is None:
            assert model.tokenizer is not None, "the config demands one beside an architecture"
            tokenizer = train_tokenizer(model.tokenizer.vocab_size, tokenizer_tasks)
            config = _config(model, len(tokenizer))
            return kind_of(config)(config).float(), tokenizer
        try:
            config = _config(model, None)
            pretrained = AutoTokenizer.from_pretrained(model.name, revision=model.revision, **NO_CODE)
            found = kind_of(config).from_pretrained(model.name, revision=model.revision, **WEIGHTS)
        except (OSError, ValueError) as error:
            raise ModelError(_cannot(model.name, error)) from error
        return _with_adapters(found, model.lora) if model.lora else found, pretrained


def kind_of(config: Any) -> Any:
    """The class of a configuration's model: decoder, encoder-decoder or image classifier.

    Raises:
        ValueError: it is none of them.
    """
    if is_encoder_decoder(config):
        mappings = [MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING]
    else:
        mappings = [MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING]
    for known in mappings:
        if type(config) in known:
            return known[type(config)]
    raise ValueError(f"{config.model_type} is no language model and no image classifier that transformers knows")


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def parameter_count(model: Model, classes: int | None = None) -> int:
    """Number of parameters, from the configuration alone, without adapters.

    Raises:
        OSError: the configuration of a pretrained model cannot be had, for example because the hub is off.
        ModelError: no model can be built from it.
    """
    return _parameters(model.model_dump_json(exclude={"template", "lora"}), classes)


@functools.lru_cache
def _parameters(described: str, classes: int | None) -> int:
    model = Model.model_validate_json(described)
    try:
        config = _config(model, model.tokenizer.vocab_size if model.tokenizer else None, classes)
        layers = max(int(getattr(config, name, None) or 0) for name in ("num_hidden_layers", "num_decoder_layers"))
        if layers > MOST_LAYERS:
            raise ModelError(f"{layers} layers are too many to build: at most {MOST_LAYERS}")
        kind = kind_of(config)  # imported before the device changes: torch 2.7
        with torch.device("meta"):
            empty = kind(config)
    except (OSError, ModelError):
        raise
    except Exception as error:  # each architecture checks its configuration in its own way
        raise ModelError(_one_line(error)) from error
    return sum(p.numel() for p in empty.parameters())


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
    try:
        parameter_count(model, classes)
    except (OSError, ModelError) as error:
        return [f"{key}: no model can be built: {_one_line(error)}"]
    vocab_size = model.tokenizer.vocab_size if model.tokenizer else None
    config = _config(model, vocab_size, classes)
    found = [f"model.config.{name}: {model.architecture} knows no such key" for name in _ignored(model.config, config)]
    wanted = "no language model" if classes is None else "no image classifier"
    if (type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING) == (classes is None):
        return [*found, f"{key}: {config.model_type} is {wanted}, and the tasks need one"]
    if classes is not None:
        return found
    if vocab_size is not None and config.vocab_size < vocab_size:
        found.append(f"{key}.vocab_size: {config.vocab_size} is less than the tokenizer's {vocab_size}")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and seq_len > positions:
        found.append(f"train.seq_len: {seq_len} is longer than the {positions} positions that the model has")
    return found


def check(folder: Path, seq_len: int, template: str) -> None:
    """Checks that the model in a folder can be trained as it is asked to.

    Raises:
        ModelError: the tokenizer has more tokens than the model, no end of text, or no chat template where one is
            needed; or a sequence is longer than the model.
    """
    processor = read_processor(folder)
    if not isinstance(processor, PreTrainedTokenizerBase):
        return
    adapters = folder / "adapter_config.json"
    name = json.loads(adapters.read_text())["base_model_name_or_path"] if adapters.is_file() else folder
    config = AutoConfig.from_pretrained(name, **NO_CODE)
    positions, tokens = getattr(config, "max_position_embeddings", None), len(processor)
    if tokens > config.vocab_size:
        raise ModelError(f"the tokenizer has {tokens} tokens and the model embeddings for {config.vocab_size}")
    if processor.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-text token, so no response would end")
    if template == "chat" and processor.chat_template is None:
        raise ModelError("the tokenizer has no chat template: set model.template to instruction or plain")
    if positions is not None and seq_len > positions:
        raise ModelError(f"train.seq_len: {seq_len} is longer than the {positions} positions that the model has")


def _ignored(options: dict[str, Any], config: Any) -> list[str]:
    """Those of ``options`` that a configuration keeps but knows nothing of."""
    known = {*inspect.signature(type(config).__init__).parameters, *inspect.signature(PreTrainedConfig).parameters}
    return [name for name in options if name in vars(config) and name not in known | set(config.attribute_map)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def read_model(folder: Path | str) -> Any:
    """The ``transformers`` model in a folder (or of a hub name), float32 on CPU; adapters lie on the model that they
    were made for.

    Raises:
        ModelError: its adapters are pickled.
        ValueError: weights are missing from the folder, or do not fit the configuration.
    """
    refuse_pickled_adapters(folder)
    if (Path(folder) / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel

        adapters = PeftConfig.from_pretrained(str(folder))
        name, revision = str(adapters.base_model_name_or_path), adapters.revision
        refuse_pickled_adapters(name, revision)
        kind = kind_of(AutoConfig.from_pretrained(name, revision=revision, **NO_CODE))
        under = kind.from_pretrained(name, revision=revision, **WEIGHTS)
        return PeftModel.from_pretrained(under, str(folder), is_trainable=True)
    kind = kind_of(AutoConfig.from_pretrained(folder, **NO_CODE))
    model, info = kind.from_pretrained(folder, output_loading_info=True, **WEIGHTS)
    wrong = {what: sorted(names) for what, names in info.items() if names and what != "unexpected_keys"}
    if wrong:
        raise ValueError(f"the weights in {folder} do not fit its configuration: {wrong}")
    return model


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


def _with_adapters(model: Any, lora: LoRA) -> Any:
    from peft import LoraConfig, get_peft_model

    task = "SEQ_2_SEQ_LM" if is_encoder_decoder(model.config) else "CAUSAL_LM"
    options: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return get_peft_model(model, LoraConfig(task_type=task, target_modules=lora.target_modules, **options))


def _build_classifier(model: Model, classes: int) -> tuple[Any, Any]:
    config = _config(model, None, classes)
    kind = kind_of(config)
    if model.name is not None:
        options = {"revision": model.revision, "ignore_mismatched_sizes": True, **WEIGHTS}
        try:
            found = kind.from_pretrained(model.name, config=config, **options)
            return found, AutoImageProcessor.from_pretrained(model.name, revision=model.revision, **NO_CODE)
        except (OSError, ValueError) as error:
            raise ModelError(_cannot(model.name, error)) from error
    channels, size = int(config.num_channels), int(config.image_size)
    half = [0.5] * channels
    return kind(config).float(), ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=half, image_std=half
    )


def _cannot(name: str, error: Exception) -> str:
    return f"the model {name} cannot be used: {_one_line(error)}"


def _config(model: Model, vocab_size: int | None, classes: int | None = None) -> Any:
    if model.name is not None:
        refuse_pickled_adapters(model.name, model.revision)
        labels = {} if classes is None else {"num_labels": classes}
        return AutoConfig.from_pretrained(model.name, revision=model.revision, **NO_CODE, **labels)
    if classes is not None:
        assert model.architecture is not None, "the config demands one or the other"
        return AutoConfig.for_model(model.architecture, **{**model.config, "num_labels": classes})
    special = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    special["decoder_start_token_id"] = 0  # of an encoder-decoder
    assert model.architecture is not None, "the config demands one or the other"
    return AutoConfig.for_model(model.architecture, **{**special, **model.config})
