"""A tiny language model, its data, and an independent plain PyTorch loop of Algorithm 1, which every trainer equals."""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
LEARNING_RATE = {"sgd": 0.3, "adamw": 3e-3}
T, P, BETA = 10, 0.3, 0.5  # merges after 3, 6, 9, 10
ROWS, LENGTH = 4, 6  # rows of a step over all ranks and substeps, tokens of a row

Row = dict[str, Tensor]


def model(seed: int = 0, dtype: torch.dtype = torch.float32, lora: bool = False) -> Any:
    """A Llama of 4,000 parameters; with LoRA on its attention."""
    torch.manual_seed(seed)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    if not lora:
        return llama
    adapters = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    wrapped = get_peft_model(llama, adapters, autocast_adapter_dtype=False)
    with torch.no_grad():  # as after a first task, so that products are not zero
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) / 4)
    return wrapped


def rows(steps: int = T) -> list[Row]:
    """Random tokens of equal length; a loss over several rows is the mean of the rows' losses."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(SIZES["vocab_size"], (steps * ROWS, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def loss(network: nn.Module, batch: Sequence[Row]) -> Tensor:
    tokens = torch.stack([row["input_ids"] for row in batch])
    logits = network(input_ids=tokens).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def optimizer(parameters: Iterable[nn.Parameter], kind: str) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE[kind], weight_decay=0.1)
    return torch.optim.SGD(parameters, lr=LEARNING_RATE[kind])


def algorithm_1(
    network: nn.Module,
    p: float = P,
    beta: float = BETA,
    kind: str = "sgd",
    accumulation: int = 1,
    steps: int = T,
    theta_o: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The trained weights after ``steps`` steps: after every multiple of pT, rounded up to a step, and at the end,
    θ ← β·θ_o + (1−β)·θ."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    theta_o = theta_o or {name: parameter.detach().clone() for name, parameter in trained.items()}
    merges = {math.ceil(k * Decimal(str(p)) * steps) for k in range(1, steps + 1)} | {steps}
    data, opt = rows(steps), optimizer(trained.values(), kind)
    network.train()
    for t in range(1, steps + 1):
        batch = data[(t - 1) * ROWS : t * ROWS]
        size = ROWS // accumulation
        for start in range(0, ROWS, size):
            (loss(network, batch[start : start + size]) / accumulation).backward()
        opt.step()
        opt.zero_grad()
        if t in merges:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(beta * theta_o[name] + (1 - beta) * parameter)
    return {name: parameter.detach().clone() for name, parameter in trained.items()}


def weights(network: nn.Module) -> dict[str, Tensor]:
    """The trained weights."""
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=tolerance, check_dtype=False, msg=name)
