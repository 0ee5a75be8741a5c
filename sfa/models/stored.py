"""Models in folders of Hugging Face format or on the hub, with their tokenizers or image processors."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase

from sfa.data.template import Layout
from sfa.families import family_of
from sfa.models.configurations import NO_CODE, refuse_pickled_adapters
from sfa.models.pretrained import ModelError, read
from sfa.tensors import locations


def check(folder: Path, seq_len: int, layout: Layout) -> None:
    """Checks that the model in a folder can be trained with these settings.

    Raises:
        ModelError: the tokenizer has more tokens than the model or no end of text, its chat template is missing or
            cannot render the conversation, or sequences are longer than the model allows.
    """
    adapters = folder / "adapter_config.json"
    name = json.loads(adapters.read_text())["base_model_name_or_path"] if adapters.is_file() else folder
    configuration = AutoConfig.from_pretrained(name, **NO_CODE)
    family_of(configuration).check(configuration, read_processor(folder), layout, seq_len)


def read_model(folder: Path | str) -> Any:
    """The ``transformers`` model in a folder (or with a hub name), float32 on CPU; adapters are attached to their base
    model.

    Raises:
        ModelError: tensors are missing or do not match the configuration, or files are damaged.
        OSError: the model does not exist.
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
    """The tokenizer or image processor in a model's folder. A tokenizer without a pad token uses its end of
    text."""
    if (Path(folder) / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
