"""The model that a stream starts from, and what its configuration says about it before it is built."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from sfa.data import Task
from sfa.errors import one_line
from sfa.families import Family, WrongFamily, family_of
from sfa.model_files import Settings, weight_files
from sfa.models.configurations import read_configuration
from sfa.models.outline import Outline, outline
from sfa.models.pretrained import ModelError, refuse_adapters
from sfa.models.settings import Model
from sfa.values import Overrides


def build(
    model: Model,
    seed: int,
    family: Family,
    tokenizer_tasks: Sequence[Task] = (),
    report: Callable[[str], None] = print,
) -> tuple[Any, Any]:
    """The model that a stream starts from, float32 on CPU.

    Args:
        model: the config's model section.
        seed: seed of random weights, adapters or a new head.
        family: the stream's family.
        tokenizer_tasks: tasks that a new tokenizer is trained on.
        report: called with a line if a pretrained classifier gets a new head.

    Returns:
        The model, with new adapters if the config asks for LoRA, and its tokenizer or image processor.

    Raises:
        ModelError: a pretrained model does not exist, has no safetensors, lacks tensors or has unexpected ones, or
            requires custom code.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.build(model, tokenizer_tasks, report)


def outline_of(model: Model, family: Family) -> Outline:
    """What can be derived from the model's configuration, without weights.

    Raises:
        OSError: the configuration of a pretrained model is unavailable, for example because the hub is offline.
        ModelError: no model can be built from it.
    """
    return _outline(model.model_dump_json(exclude={"template", "lora"}), family)


def has_noise(model: Model, family: Family) -> bool:
    """See :class:`Outline`. ``False`` if the configuration of a pretrained model is unavailable.

    Raises:
        ModelError: no model can be built from it.
    """
    try:
        return outline_of(model, family).has_noise
    except OSError:
        return False  # then there is no model to train


@functools.lru_cache
def _outline(described: str, family: Family) -> Outline:
    model = Model.model_validate_json(described)
    try:
        configuration = _configuration(model, family)
        kind = family_of(configuration, family.rows).model_class(configuration)
        with torch.device("meta"):  # only after the class is imported, because of torch 2.7
            empty = kind(configuration)
    except (OSError, ModelError):
        raise
    except Exception as error:  # each architecture checks its configuration in its own way
        raise ModelError(one_line(error)) from error
    by_batch = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in empty.modules())
    return outline(empty, by_batch or _has_dropout(configuration.to_dict()))


def _configuration(model: Model, family: Family) -> Any:
    return read_configuration(model, family.options(model, model.tokenizer.vocab_size if model.tokenizer else None))


def _has_dropout(settings: Settings) -> bool:
    """Whether a dropout probability or jitter is above 0 in a configuration or a nested one; those of text
    classification heads are ignored."""
    named = [(str(name), value) for name, value in settings.items() if isinstance(value, float)]
    here = any(
        value > 0 and ("drop" in name or "jitter" in name) and not ("classifier" in name or "summary" in name)
        for name, value in named
    )
    return here or any(_has_dropout(value) for value in settings.values() if isinstance(value, dict))


def configuration_errors(model: Model, family: Family, seq_len: int) -> list[str]:
    """Errors in the configuration of a model with random weights or in a folder.

    Args:
        model: the config's model section.
        family: the stream's family.
        seq_len: tokens of the longest training sequence.

    Returns:
        Lines ``key: problem``.
    """
    key = "model.name" if model.architecture is None else "model.config"
    if model.architecture is not None and model.architecture not in CONFIG_MAPPING:
        near = difflib.get_close_matches(model.architecture, list(CONFIG_MAPPING), 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return [f"model.architecture: {model.architecture!r} is not a model type of transformers{hint}"]
    try:
        if model.name is not None:
            refuse_adapters(Path(model.name))
        configuration = _configuration(model, family)
        family_of(configuration, family.rows)
        outline_of(model, family)
    except WrongFamily as error:
        return [f"{key}: {error}"]
    except Exception as error:  # each architecture checks its configuration in its own way
        return [f"{key}: no model can be built: {one_line(error)}"]
    if model.name is not None:
        try:
            weight_files(Path(model.name))
        except (OSError, ValueError) as error:
            return [f"model.name: {one_line(error)}"]
    unknown = _unknown_options(model.config, configuration, family.further_options)
    errors = [f"model.config.{name}: {model.architecture} has no such key" for name in unknown]
    return errors + family.configuration_errors(model, configuration, seq_len)


def _unknown_options(options: Overrides, configuration: Any, further: Collection[str]) -> list[str]:
    """Those ``options`` that a configuration stores but does not define, except ``further`` ones."""
    known = {*inspect.signature(type(configuration).__init__).parameters, *further}
    known |= {*inspect.signature(PreTrainedConfig).parameters, *configuration.attribute_map}
    return [name for name in options if name in vars(configuration) and name not in known]
