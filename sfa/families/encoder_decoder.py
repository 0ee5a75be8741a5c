"""Encoder-decoders: the encoder reads the prompt, the decoder learns the response; one example per sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfa.data.template import Layout
from sfa.families.base import model_class
from sfa.families.text import LanguageModel, is_encoder_decoder

if TYPE_CHECKING:
    from torch import Tensor

    from sfa.data.packing import LongRows
    from sfa.data.text_arrays import EncoderDecoderArrays


@dataclass(frozen=True)
class EncoderDecoder(LanguageModel):
    """Predicts each token of a response from the whole prompt and the previous tokens, such as T5."""

    name = "encoder_decoder"
    seq2seq = True
    shift = 0
    adapter_task = "SEQ_2_SEQ_LM"

    @classmethod
    def knows(cls, configuration: Any) -> bool:
        from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        return is_encoder_decoder(configuration) and type(configuration) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    @classmethod
    def model_class(cls, configuration: Any) -> Any:
        from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        return model_class(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, configuration)

    def try_out(self, model: Any, tokenizer: Any) -> None:
        import torch

        tokens, training = torch.tensor([[0, 1]]), model.training
        try:
            with torch.no_grad():
                model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens), decoder_input_ids=tokens)
        finally:
            model.train(training)

    def array_builder(
        self,
        processor: Any,
        configuration: Any,
        layout: Layout,
        seq_len: int,
        long_rows: "LongRows",
        packs: bool = True,
    ) -> "EncoderDecoderArrays":
        from sfa.data.text_arrays import EncoderDecoderArrays

        return EncoderDecoderArrays(self.encoder(processor, layout), seq_len, long_rows)

    def all_logits(self, model: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        shifted = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        inputs = {"attention_mask": batch["attention_mask"], "decoder_input_ids": shifted}
        logits: Tensor = model(input_ids=batch["input_ids"], **inputs).logits
        return logits
