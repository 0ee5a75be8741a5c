"""Small models of every kind that is exported: tied and untied embeddings, one and two stacks, adapters, images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from sfa.families import family_of
from sfa.models.settings import LoRA

SMALL: dict[str, Any] = {
    "hidden_size": 40,  # 61 and 101 rows are shards of uneven size
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 61,
}
T5: dict[str, Any] = {"d_model": 40, "d_ff": 61, "d_kv": 20, "num_heads": 2, "num_layers": 2}


def _neox(tied: bool) -> Any:
    small = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=101, tie_word_embeddings=tied, **small))


def _llama(tied: bool) -> Any:
    return LlamaForCausalLM(LlamaConfig(vocab_size=101, tie_word_embeddings=tied, **SMALL))


def _qwen(tied: bool) -> Any:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=101, tie_word_embeddings=tied, **SMALL))


def _t5(tied: bool) -> Any:
    gated = {} if tied else {"feed_forward_proj": "gated-gelu"}
    return T5ForConditionalGeneration(T5Config(vocab_size=101, tie_word_embeddings=tied, **T5, **gated))


def _adapted(model: Any, targets: str | list[str] = "all-linear") -> Any:
    model.name_or_path = model.config._name_or_path = "under"
    return family_of(model.config).with_adapters(model, LoRA(rank=3, target_modules=targets))


def _vit() -> Any:
    small = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=5, **small))


def _mobilenet() -> Any:
    return MobileNetV2ForImageClassification(MobileNetV2Config(image_size=32, depth_multiplier=0.1, num_labels=5))


MODELS: dict[str, Callable[[], Any]] = {
    "gpt_neox": lambda: _neox(False),
    "gpt_neox tied": lambda: _neox(True),
    "llama": lambda: _llama(False),
    "llama tied": lambda: _llama(True),
    "qwen2": lambda: _qwen(False),
    "qwen2 tied": lambda: _qwen(True),
    "t5": lambda: _t5(False),
    "t5 tied": lambda: _t5(True),
    "llama lora": lambda: _adapted(_llama(False)),
    "qwen2 tied lora": lambda: _adapted(_qwen(True)),
    "qwen2 tied lora of the embedding": lambda: _adapted(_qwen(True), ["embed_tokens", "q_proj"]),
    "t5 tied lora": lambda: _adapted(_t5(True), ["q", "v"]),
    "vit": _vit,
    "mobilenet": _mobilenet,
}


def built(name: str) -> Any:
    """A model of :data:`MODELS` with the same weights on every call; adapters are not zero."""
    torch.manual_seed(3)
    model = MODELS[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    return model


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path from there."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
