"""Models of given shapes with random weights."""

from typing import Any

import torch
from transformers import AutoConfig

from sfa.families import family_of

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
    "Llama-2-70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000,
                    "tie_word_embeddings": False},
}  # fmt: skip
NEOX: dict[str, dict[str, Any]] = {
    "Pythia-2.8B": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
                    "vocab_size": 50304, "rotary_pct": 0.25},
}  # fmt: skip
T5: dict[str, dict[str, Any]] = {
    "T0pp": {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128,
             "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # fmt: skip
# By the architecture's name in transformers; published models' values are those of their config.json.
SHAPES = {"llama": LLAMA, "gpt_neox": NEOX, "t5": T5}


def build(shape: str, device: str = "cpu", **changes: Any) -> Any:
    """A float32 language model of a shape; ``changes`` override its configuration. On ``meta`` it has no weights."""
    kind, options = next((kind, shapes[shape]) for kind, shapes in SHAPES.items() if shape in shapes)
    config = AutoConfig.for_model(kind, **{"tie_word_embeddings": kind == "llama", **options, **changes})
    architecture = family_of(config).model_class(config)
    torch.manual_seed(0)
    with torch.device(device):
        model = architecture(config).float()
    if kind == "t5" and not config.scale_decoder_outputs:
        # transformers ties the head of every T5 that it builds; a published one of this kind has a head of its own.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model
