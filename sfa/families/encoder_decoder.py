"""Encoder-decoders: the encoder reads the prompt, the decoder learns the response; one example per sequence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfa.families.base import Sequences
from sfa.families.text import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor

    from sfa.data.text_arrays import EncoderDecoderArrays


@dataclass(frozen=True)
class EncoderDecoder(LanguageModel):
    """Predicts each token of a response from the whole prompt and the previous tokens, such as T5."""

    name = "encoder_decoder"
    seq2seq = True
    shift = 0
    adapter_task = "SEQ_2_SEQ_LM"

    @classmethod
    def classes(cls) -> Mapping[Any, Any]:
        from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        return MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    def try_out(self, model: Any, tokenizer: Any) -> None:
        import torch

        tokens, training = torch.tensor([[0, 1]]), model.training
        try:
            with torch.no_grad():
                model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens), decoder_input_ids=tokens)
        finally:
            model.train(training)

    def array_builder(self, processor: Any, configuration: Any, sequences: Sequences) -> "EncoderDecoderArrays":
        from sfa.data.text_arrays import EncoderDecoderArrays

        encoder = self.encoder(processor, sequences.layout)
        return EncoderDecoderArrays(encoder, sequences.seq_len, sequences.long_rows)

    def all_logits(self, model: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        shifted = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        inputs = {"attention_mask": batch["attention_mask"], "decoder_input_ids": shifted}
        logits: Tensor = model(input_ids=batch["input_ids"], **inputs).logits
        return logits
