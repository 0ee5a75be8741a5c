"""Models of given shapes with random weights."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA: dict[str, dict[str, Any]] = {
    "1M": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": 2048},
    "10M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 8192},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32000},
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
NEOX: dict[str, dict[str, Any]] = {
    "Pythia-2.8B": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
                    "vocab_size": 50304, "rotary_pct": 0.25},
}  # fmt: skip


def build(shape: str, device: str = "cpu", **changes: Any) -> Any:
    """A float32 causal language model of a shape; ``changes`` override its configuration."""
    kind, options = ("gpt_neox", NEOX[shape]) if shape in NEOX else ("llama", LLAMA[shape])
    config = AutoConfig.for_model(kind, **{"tie_word_embeddings": kind == "llama", **options, **changes})
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config).float()
