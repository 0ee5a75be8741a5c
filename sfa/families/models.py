"""Models with their tokenizers or image processors, from a config or from a folder in Hugging Face format."""

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from sfa.data import Task
from sfa.data.template import Layout
from sfa.families import Family, WrongFamily, family_of
from sfa.families.configurations import NO_CODE, read_configuration, refuse_pickled_adapters
from sfa.families.pretrained import ModelError, one_line, read, refuse_adapters
from sfa.families.settings import Model
from sfa.model_files import weight_files
from sfa.tensors import locations


def build(
    model: Model,
    seed: int,
    family: Family,
    tokenizer_tasks: Sequence[Task] = (),
    tell: Callable[[str], None] = print,
) -> tuple[Any, Any]:
    """The model that a stream starts from, float32 on CPU.

    Args:
        model: of the config.
        seed: of whatever is random: weights, adapters, a new head.
        family: that the stream is for.
        tokenizer_tasks: that a tokenizer of its own is trained on.
        tell: is given a line where a pretrained classifier gets a new head.

    Returns:
        The model, with new adapters if the config asks for LoRA, and its tokenizer or image processor.

    Raises:
        ModelError: a pretrained model is not there, has no safetensors, lacks tensors or has others, or needs code of
            its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.build(model, tokenizer_tasks, tell)


def parameter_count(model: Model, family: Family) -> int:
    """Number of parameters, from the configuration alone, without adapters.

    Raises:
        OSError: the configuration of a pretrained model cannot be had, for example because the hub is off.
        ModelError: no model can be built from it.
    """
    return _outline(model.model_dump_json(exclude={"template", "lora"}), family).parameters


def has_noise(model: Model, family: Family) -> bool:
    """Whether a training of the model draws random numbers or takes statistics over its batch, so that its weights
    depend on how batches are split over ranks and microbatches: dropout, batch normalisation. ``False`` if the
    configuration of a pretrained model cannot be had.

    Raises:
        ModelError: no model can be built from it.
    """
    try:
        return _outline(model.model_dump_json(exclude={"template", "lora"}), family).noise
    except OSError:
        return False  # and there is no model to train


class _Outline(NamedTuple):
    parameters: int
    noise: bool


@functools.lru_cache
def _outline(described: str, family: Family) -> _Outline:
    """What a model's configuration tells, without its weights."""
    model = Model.model_validate_json(described)
    try:
        configuration = _configuration(model, family)
        kind = family_of(configuration, family.rows).model_class(configuration)
        with torch.device("meta"):  # not before the class is imported: torch 2.7
            empty = kind(configuration)
    except (OSError, ModelError):
        raise
    except Exception as error:  # each architecture checks its configuration in its own way
        raise ModelError(one_line(error)) from error
    by_batch = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in empty.modules())
    return _Outline(sum(p.numel() for p in empty.parameters()), by_batch or _has_dropout(configuration.to_dict()))


def _configuration(model: Model, family: Family) -> Any:
    return read_configuration(model, family.options(model, model.tokenizer.vocab_size if model.tokenizer else None))


def _has_dropout(settings: dict[str, Any]) -> bool:
    """Whether a probability of dropping something, or a jitter, is above 0 in a configuration or a part of it; those of
    heads that classify texts are of no use here."""
    named = [(str(name), value) for name, value in settings.items() if isinstance(value, float)]
    own = any(
        value > 0 and ("drop" in name or "jitter" in name) and not ("classifier" in name or "summary" in name)
        for name, value in named
    )
    return own or any(_has_dropout(value) for value in settings.values() if isinstance(value, dict))


def configuration_errors(model: Model, family: Family, seq_len: int) -> list[str]:
    """What is wrong with a model of random weights, or with one in a folder, as far as its configuration tells.

    Args:
        model: of the config.
        family: that the stream is for.
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
        if model.name is not None:
            refuse_adapters(Path(model.name))
        configuration = _configuration(model, family)
        family_of(configuration, family.rows)
        parameter_count(model, family)
    except WrongFamily as error:
        return [f"{key}: {error}"]
    except Exception as error:  # each architecture checks its configuration in its own way
        return [f"{key}: no model can be built: {one_line(error)}"]
    if model.name is not None:
        try:
            weight_files(Path(model.name))
        except (OSError, ValueError) as error:
            return [f"model.name: {one_line(error)}"]
    unknown = _unknown(model.config, configuration, family.further_options)
    found = [f"model.config.{name}: {model.architecture} knows no such key" for name in unknown]
    return found + family.configuration_errors(model, configuration, seq_len)


def _unknown(given: dict[str, Any], configuration: Any, further: Collection[str]) -> list[str]:
    """Those of the ``given`` options that a configuration keeps but knows nothing of, but for ``further`` ones."""
    known = {*inspect.signature(type(configuration).__init__).parameters, *further}
    known |= {*inspect.signature(PreTrainedConfig).parameters, *configuration.attribute_map}
    return [name for name in given if name in vars(configuration) and name not in known]


def check(folder: Path, seq_len: int, layout: Layout) -> None:
    """Checks that the model in a folder can be trained as it is asked to.

    Raises:
        ModelError: the tokenizer has more tokens than the model or no end of text, its chat template is not there or
            cannot show what it is to show, or a sequence is longer than the model.
    """
    adapters = folder / "adapter_config.json"
    name = json.loads(adapters.read_text())["base_model_name_or_path"] if adapters.is_file() else folder
    configuration = AutoConfig.from_pretrained(name, **NO_CODE)
    family_of(configuration).check(configuration, read_processor(folder), layout, seq_len)


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
        adapted = PeftModel.from_pretrained(_read(name, revision), str(folder), is_trainable=True)
        odd = locations(Path(folder)).keys() ^ get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if odd:
            raise ModelError(f"the adapters in {folder} and their configuration differ in tensors: {sorted(odd)[:3]}")
        return adapted
    return _read(str(folder), None)


def _read(name: str, revision: str | None) -> Any:
    configuration = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
    return read(family_of(configuration).model_class(configuration), name, revision=revision)


def read_processor(folder: Path | str) -> Any:
    """The tokenizer or image processor in a model's folder. A tokenizer without a pad token pads with its end of
    text."""
    if (Path(folder) / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
