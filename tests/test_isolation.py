"""Examples are packed only where the model keeps them apart; elsewhere one example is one sequence."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, BertLMHeadModel

from sfa.data import registered
from sfa.data.batches import BatchSchedule, collate, example_count
from sfa.data.packing import encode, pack, pad_each
from sfa.data.tokens import Encoder
from sfa.families import family_of
from sfa.families.decoder import Decoder
from sfa.models.isolation import NotCausal, padding_reason
from sfa.models.pretrained import ModelError
from sfa.models.tokenizer_training import train_tokenizer
from sfa.stages.composer_model import StageModel

ROWS = registered("arithmetic").rows("train")[:20]
WIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**WIDE, "num_key_value_heads": 1}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2}
ISOLATING: dict[str, dict[str, Any]] = {
    "gpt_neox": WIDE,
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 8},
    "qwen2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 8},
    "gpt2": GPT,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "phi": WIDE,
    "gptj": {**GPT, "rotary_dim": 4},
}
LEAKING: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    },
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 128},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
    "xglm": {"d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2},
    "openai-gpt": GPT,
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16},
    "gpt_oss": {**GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "recurrent_gemma": {**GROUPED, "num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(400, [registered("arithmetic")])


def tiny(kind: str, tokenizer: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    options = {**(ISOLATING.get(kind) or LEAKING.get(kind) or WIDE), **more}
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **special, **options)
    kinds = {"bert": BertLMHeadModel}  # which is refused by its configuration already, unless that says is_decoder
    return (kinds.get(kind) or family_of(config).model_class(config))(config).float()


@pytest.mark.parametrize("kind", list(ISOLATING))
def test_models_that_isolate_are_packed(kind: str, tokenizer: Any) -> None:
    model = tiny(kind, tokenizer)
    model.train()
    assert padding_reason(model, tokenizer) is None
    assert model.training


@pytest.mark.parametrize("kind", list(LEAKING))
def test_models_that_do_not_are_padded_without_harm(kind: str, tokenizer: Any) -> None:
    """Every example of a padded batch has the loss that it has alone."""
    model = tiny(kind, tokenizer)
    assert padding_reason(model, tokenizer) is not None
    examples, _ = encode(ROWS, Encoder(tokenizer), 96)
    sequences = pad_each(examples, 0)
    assert example_count(sequences) == len(ROWS) and "position_ids" not in sequences
    stage_model = StageModel(model.eval(), tokenizer)
    steps = BatchSchedule([sequences], 1, len(ROWS), seed=0)
    batch = collate([steps[i] for i in range(len(ROWS))])
    assert batch["input_ids"].shape[1] == max(len(example["input_ids"]) for example in examples)
    with torch.no_grad():
        together = stage_model.sequence_losses(stage_model(batch), batch)
        for place in range(0, len(ROWS), 7):
            example = examples[int(steps.order[place])]
            single = {key: torch.tensor([example[key]]) for key in ("input_ids", "labels")}  # type: ignore[literal-required]
            apart = stage_model.sequence_losses(stage_model(single), single)
            assert float(together[place]) == pytest.approx(float(apart), rel=1e-4)
    assert torch.isfinite(stage_model.loss(stage_model(batch), batch))


def test_packing_such_a_model_would_change_the_loss(tokenizer: Any) -> None:
    """Why it is refused: the packed loss is not that of the examples."""
    examples, _ = encode(ROWS, Encoder(tokenizer), 96)
    losses_by_kind = {}
    for kind in ("llama", "mamba"):
        stage_model = StageModel(tiny(kind, tokenizer, initializer_range=0.3).eval(), tokenizer)
        losses = []
        for sequences in (pack(examples, 96, 0, seed=0), pad_each(examples, 0)):
            n = len(sequences["labels"])
            steps = BatchSchedule([sequences], 1, n, 0)
            batch = collate([steps[i] for i in range(n)])
            with torch.no_grad():
                losses.append(float(stage_model.loss(stage_model(batch), batch)))
        losses_by_kind[kind] = abs(losses[0] - losses[1])
    assert losses_by_kind["llama"] < 1e-4 < 1e-3 < losses_by_kind["mamba"]


def test_a_model_that_fails_on_positions_is_padded_and_the_reason_reported(tokenizer: Any) -> None:
    model = tiny("llama", tokenizer)
    forward = model.model.forward

    def failing(*args: Any, position_ids: Any = None, **options: Any) -> Any:
        if position_ids is not None:
            raise IndexError("no such position")
        return forward(*args, **options)

    model.model.forward = failing
    assert padding_reason(model, tokenizer) == "it fails on restarting position_ids (no such position)"


def test_a_model_that_sees_what_it_is_to_predict_is_refused(tokenizer: Any) -> None:
    with pytest.raises(NotCausal, match="is_decoder"):
        padding_reason(tiny("bert", tokenizer), tokenizer)
    with pytest.raises(ModelError, match="is_decoder"):
        Decoder().padding_reason(tiny("bert", tokenizer), tokenizer)
    padding_reason(tiny("bert", tokenizer, is_decoder=True), tokenizer)


def test_a_model_of_few_positions_is_looked_at_as_well(tokenizer: Any) -> None:
    assert Decoder().padding_reason(tiny("gpt2", tokenizer, n_positions=8), tokenizer) is None
