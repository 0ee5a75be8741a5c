"""What is known of a model before it is built."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Outline(NamedTuple):
    """Of the weights of a model, without adapters.

    Attributes:
        parameters: their number.
        largest: elements of the largest tensor.
        is_shared: whether several layers use that tensor, as tied embeddings are.
        has_noise: whether training it uses random numbers or batch statistics (dropout, batch normalisation), so that
            the weights depend on how batches are split over ranks and microbatches.
    """

    parameters: int
    largest: int
    is_shared: bool
    has_noise: bool = False


def outline(model: "nn.Module", has_noise: bool = False) -> Outline:
    """That of a model, which may be on the meta device."""
    weights = list(model.parameters())
    largest = max(weights, key=lambda weight: weight.numel())
    uses = sum(weight is largest for _, weight in model.named_parameters(remove_duplicate=False))
    return Outline(sum(weight.numel() for weight in weights), largest.numel(), uses > 1, has_noise)


PAPER = {  # the paper's models, so that their dry runs do not need the hub
    "EleutherAI/pythia-2.8b": Outline(2_775_208_960, 50_304 * 2_560, is_shared=False),
    "meta-llama/Llama-2-7b-hf": Outline(6_738_415_616, 32_000 * 4_096, is_shared=False),
    "Qwen/Qwen2.5-1.5B": Outline(1_543_714_304, 151_936 * 1_536, is_shared=True),
    "bigscience/T0_3B": Outline(2_849_757_184, 32_128 * 2_048, is_shared=True),
    "bigscience/T0pp": Outline(11_135_332_352, 32_128 * 4_096, is_shared=True),
    "google/vit-base-patch16-224-in21k": Outline(85_798_656, 3_072 * 768, is_shared=False),  # without a head
}
