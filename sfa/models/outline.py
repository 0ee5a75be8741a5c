"""What is known of a model before it is built."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Outline(NamedTuple):
    """Of the weights of a model, without adapters.

    Attributes:
        parameters: their number.
        largest: elements of the largest tensor.
        is_shared: whether several layers use that tensor, as tied embeddings are.
        block: elements of the largest block, as FSDP2 gathers it; 0 if there are no blocks.
        outside: elements of the weights outside of blocks.
        has_noise: whether training it uses random numbers or batch statistics (dropout, batch normalisation), so that
            the weights depend on how batches are split over ranks and microbatches.
    """

    parameters: int
    largest: int
    is_shared: bool
    block: int
    outside: int
    has_noise: bool = False


def outline(model: "nn.Module", has_noise: bool = False) -> Outline:
    """That of a model, which may be on the meta device."""
    weights = list(model.parameters())
    largest = max(weights, key=lambda weight: weight.numel())
    uses = sum(weight is largest for _, weight in model.named_parameters(remove_duplicate=False))
    blocks = [_count(list(block.parameters())) for block in blocks_of(model)]
    total = _count(weights)
    block, outside = max(blocks, default=0), total - sum(blocks)
    return Outline(total, largest.numel(), uses > 1, block, outside, has_noise)


def blocks_of(model: "nn.Module") -> "list[nn.Module]":
    """The modules of a model of ``transformers`` that FSDP2 gathers one after another."""
    names = {*(getattr(model, "_no_split_modules", None) or [])}
    return [module for module in model.modules() if type(module).__name__ in names]


def _count(weights: "Sequence[nn.Parameter]") -> int:
    return sum(weight.numel() for weight in weights)


PAPER = {  # the paper's models, so that their dry runs do not need the hub
    "EleutherAI/pythia-2.8b": Outline(2_775_208_960, 50_304 * 2_560, False, block=78_676_480, outside=257_561_600),
    "meta-llama/Llama-2-7b-hf": Outline(6_738_415_616, 32_000 * 4_096, False, block=202_383_360, outside=262_148_096),
    "Qwen/Qwen2.5-1.5B": Outline(1_543_714_304, 151_936 * 1_536, True, block=46_797_824, outside=233_375_232),
    "bigscience/T0_3B": Outline(2_849_757_184, 32_128 * 2_048, True, block=65_018_880, outside=131_600_384),
    "bigscience/T0pp": Outline(11_135_332_352, 32_128 * 4_096, True, block=260_061_184, outside=263_200_768),
    # without a head
    "google/vit-base-patch16-224-in21k": Outline(85_798_656, 3_072 * 768, False, block=7_087_872, outside=1_536),
}
