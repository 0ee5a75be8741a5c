"""Configurations of ``transformers``: of a pretrained model, read without running its code, or of an architecture."""

import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

import sfa.mlp  # noqa: F401  registers this suite's own architecture
from sfa.model_files import Settings, read_settings, refuse_special_files
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from sfa.values import Overrides

MOST_LAYERS = 1000
NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # code in model repositories is never run
ADAPTERS = "adapter_model.safetensors"


def read_configuration(model: Model, options: Overrides) -> Any:
    """The configuration of a config's model.

    Args:
        model: pretrained, or an architecture.
        options: overrides of a pretrained model's settings, or all settings of an architecture.

    Raises:
        ModelError: adapters are pickles, or there are too many layers to build.
        OSError: the model does not exist, or the hub is offline.
    """
    _refuse_sizes(model.config)
    if model.name is None:
        assert model.architecture is not None, "the config requires one or the other"
        return AutoConfig.for_model(model.architecture, **options)
    refuse_pickled_adapters(model.name, model.revision)
    if Path(model.name).is_dir():
        refuse_special_files(Path(model.name))
        file = Path(model.name) / "config.json"
        _refuse_sizes(read_settings(file) if file.is_file() else {})
    return AutoConfig.from_pretrained(model.name, revision=model.revision, **NO_CODE, **options)


def refuse_pickled_adapters(name: Path | str, revision: str | None = None) -> None:
    """Adapters are only read from safetensors; peft and transformers would fall back to a pickle.

    Raises:
        ModelError: the model in a folder or with a hub name has adapters, but not as safetensors.
    """
    if find_adapter_config_file(str(name), revision=revision) is None:
        return
    there = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(str(name), ADAPTERS, revision=revision, **there) is None:
        raise ModelError(f"{name} has adapters but no {ADAPTERS}: other weight files are pickles, which are not read")


def _refuse_sizes(settings: Settings) -> None:
    """Raises a ModelError for too many layers: ``transformers`` immediately creates lists of that length."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _refuse_sizes(value)
        elif re.search(r"layer|depth|block", key) and isinstance(value, int) and value > MOST_LAYERS:
            raise ModelError(f"{key}: {value} is too large to build: at most {MOST_LAYERS}")
