"""Trains adapters on a 4-bit base with SFA, in a process of its own (see test_peers.py)."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from sfa.huggingface import SFACallback
from tests.tiny import P, algorithm_1, model, weights
from tests.tiny_trainer import steps, trainer


def quantized(folder: Path, dtype: torch.dtype) -> Any:
    """The tiny model in 4 bits, and adapters in ``dtype``, as TRL makes them."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    base = LlamaForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu", dtype=torch.float32)
    torch.manual_seed(1)
    adapters = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(base, adapters)
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            value = torch.randn(parameter.shape) / 4 if "lora_B" in name else parameter
            parameter.data = value.detach().to(dtype)
    return wrapped


def main(folder: Path) -> None:
    model().save_pretrained(folder / "base")
    record: dict[str, Any] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        network, callback = quantized(folder / "base", dtype), SFACallback(p=P)
        frozen = {key: p.clone() for key, p in network.named_parameters() if not p.requires_grad}
        trainer(network, folder, [callback]).train()
        ours, expected = weights(network), algorithm_1(quantized(folder / "base", torch.float32))
        record[name] = {
            "merges": steps(callback),
            "error": max(float((ours[key].float() - expected[key]).abs().max()) for key in expected),
            "packed": sum(p.dtype == torch.uint8 for p in frozen.values()),
            "untouched": all(torch.equal(network.get_parameter(key), before) for key, before in frozen.items()),
        }
    (folder / "record.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
