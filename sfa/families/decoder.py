"""Decoders: prompt and response form one sequence, and sequences pack several examples if attention can isolate
them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfa.families.base import Sequences
from sfa.families.text import LanguageModel, position_count

if TYPE_CHECKING:
    from torch import Tensor

    from sfa.data.text_arrays import DecoderArrays

BOTH_DIRECTIONS = ("bert-generation", "xlnet")  # besides masked language models


@dataclass(frozen=True)
class Decoder(LanguageModel):
    """Predicts each token from the previous ones, such as Llama or GPT-NeoX."""

    name = "decoder"
    seq2seq = False
    shift = 1
    adapter_task = "CAUSAL_LM"

    @classmethod
    def classes(cls) -> Mapping[Any, Any]:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        return MODEL_FOR_CAUSAL_LM_MAPPING

    @classmethod
    def refuse(cls, configuration: Any) -> None:
        from transformers import MODEL_FOR_MASKED_LM_MAPPING

        super().refuse(configuration)
        kind = configuration.model_type
        bidirectional = type(configuration) in MODEL_FOR_MASKED_LM_MAPPING or kind in BOTH_DIRECTIONS
        if cls.knows(configuration) and bidirectional and not getattr(configuration, "is_decoder", False):
            raise ValueError(f"{kind} is an encoder: it reads text in both directions, and a decoder is required")

    def try_out(self, model: Any, tokenizer: Any) -> None:
        from sfa.models.isolation import padding_reason

        padding_reason(model, tokenizer, _length(model))

    def padding_reason(self, model: Any, processor: Any) -> str | None:
        from sfa.models.isolation import padding_reason_on_all_ranks

        return padding_reason_on_all_ranks(model, processor, _length(model))

    def array_builder(self, processor: Any, configuration: Any, sequences: Sequences) -> "DecoderArrays":
        from sfa.data.text_arrays import DecoderArrays

        encoder = self.encoder(processor, sequences.layout)
        return DecoderArrays(encoder, sequences.seq_len, sequences.long_rows, sequences.packs)

    def all_logits(self, model: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """Restarting ``position_ids`` keep attention within each example of a packed sequence."""
        packed = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        logits: Tensor = model(input_ids=batch["input_ids"], **packed, use_cache=False).logits
        return logits


def _length(model: Any) -> int:
    """Tokens in each of the examples that a model is tested with."""
    from sfa.models.isolation import LENGTH

    return min(LENGTH, (position_count(model.config) or 2 * LENGTH) // 2)
