"""The Fisher information of examples that are taken together is that of one backward pass an example."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from sfa import fisher
from sfa.data.packing import IGNORED
from sfa.fisher import diagonal
from sfa.stages.composer_model import StageModel

Examples = list[dict[str, Tensor]]
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def texts() -> Examples:
    """Of two lengths, padded at the end."""
    examples = []
    for i in range(9):
        length, end = 16 + 16 * (i % 2), 10 + i
        tokens = torch.randint(1, 100, (1, length))
        learned = torch.where((torch.arange(length) > 3) & (torch.arange(length) < end), tokens, IGNORED)
        positions = torch.arange(length)[None]
        examples.append({"input_ids": tokens, "labels": learned, "position_ids": positions, "weight": torch.ones(1)})
    return examples


def pairs() -> Examples:
    examples = []
    for i in range(6):
        prompt, learned = torch.randint(1, 100, (1, 8)), torch.randint(1, 100, (1, 4 + i % 2))
        mask = torch.ones_like(prompt)
        examples.append({"input_ids": prompt, "attention_mask": mask, "labels": learned, "weight": torch.ones(1)})
    return examples


def images() -> Examples:
    pixels = [torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8) for _ in range(7)]
    return [{"pixel_values": x, "labels": torch.tensor([i % 5]), "weight": torch.ones(1)} for i, x in enumerate(pixels)]


KINDS: dict[str, tuple[Callable[[], Any], Callable[[], Examples]]] = {
    "gpt_neox": (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, intermediate_size=64, **SMALL)), texts),
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, intermediate_size=64, **SMALL)), texts),
    "t5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=100, d_model=32, d_ff=64, d_kv=16, num_heads=2, num_layers=2, decoder_start_token_id=0)
        ),
        pairs,
    ),
    "vit": (lambda: ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=5, **SMALL)), images),
    "dinov2": (
        lambda: Dinov2ForImageClassification(Dinov2Config(image_size=32, patch_size=16, num_labels=5, **SMALL)),
        images,
    ),
}


def of_kind(kind: str) -> tuple[StageModel, Examples]:
    torch.manual_seed(0)
    build, examples = KINDS[kind]
    processor = ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3) if examples is images else None
    return StageModel(build(), processor).eval(), examples()


def one_backward_each(model: StageModel, examples: Examples) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for example in examples:
        model.zero_grad()
        model.loss(model(example), example).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad**2 / len(examples)
    return total


def same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():  # a bias of keys has no gradient but rounding: softmax takes it out
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5 * float(tensor.max()) + 1e-10)


@pytest.mark.parametrize("kind", list(KINDS))
def test_together_or_one_by_one_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = of_kind(kind)
    expected = one_backward_each(model, examples)
    mapped: list[Any] = []
    vmap = fisher.vmap
    monkeypatch.setattr(fisher, "vmap", lambda *args, **more: mapped.append(args) or vmap(*args, **more))
    same(diagonal(model, examples, "empirical"), expected)
    assert mapped
    monkeypatch.setattr(fisher, "HOST_BYTES", 1)
    mapped.clear()
    same(diagonal(model, examples, "empirical"), expected)
    assert not mapped


def test_only_what_is_trained_has_fisher_information() -> None:
    model, examples = of_kind("llama")
    for parameter in model.model.model.parameters():
        parameter.requires_grad_(False)
    fisher = diagonal(model, examples, "empirical")
    assert list(fisher) == ["model.lm_head.weight"]
    same(fisher, one_backward_each(model, examples))


@pytest.mark.parametrize("kind", ["llama", "vit"])
def test_sampled_labels_are_drawn_example_by_example(kind: str) -> None:
    """The same draws, whether the gradients are then taken together or not."""
    model, examples = of_kind(kind)
    fisher = diagonal(model, examples[:1] * 8, "sampled", seed=3)
    generator = torch.Generator().manual_seed(3)
    drawn = [model.sampled(model(example), example, generator) for example in examples[:1] * 8]
    same(fisher, one_backward_each(model, drawn))


def test_bfloat16_on_a_cpu_is_taken_one_by_one() -> None:
    model, examples = of_kind("llama")
    model.cpu_bf16 = True
    same(diagonal(model, examples, "empirical"), one_backward_each(model, examples))
