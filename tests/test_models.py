"""Every kind of language model: packing without attention across examples, encoder-decoders, adapters, templates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    T5Config,
)

from sfa import weights
from sfa.data import registered
from sfa.data.batches import BatchSchedule, collate
from sfa.data.packing import IGNORED, encode, encode_seq2seq, pack
from sfa.data.tokens import Encoder
from sfa.families import family_of
from sfa.families.decoder import Decoder
from sfa.models import building, stored
from sfa.models.settings import LoRA, Model
from sfa.models.tokenizer_training import train_tokenizer
from sfa.stages.composer_model import StageModel

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONFIGS = {
    "pythia": (GPTNeoXConfig, SMALL),
    "llama": (LlamaConfig, {**SMALL, "num_key_value_heads": 1}),
    "qwen": (Qwen2Config, {**SMALL, "num_key_value_heads": 1}),
    "t5": (T5Config, {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2, "dropout_rate": 0.0}),
}
ROWS = registered("arithmetic").rows("train")[:40]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(400, [registered("arithmetic")])


def model(name: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    kind, options = CONFIGS[name]
    start = {"decoder_start_token_id": 0} if name == "t5" else {}
    config = kind(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=0, **start, **options)
    torch.manual_seed(0)
    return family_of(config).model_class(config)(config).float()


def batch_of(steps: BatchSchedule, n: int) -> dict[str, torch.Tensor]:
    return collate([steps[i] for i in range(n)])


@pytest.mark.parametrize("name", ["pythia", "llama", "qwen"])
def test_packed_and_unpacked_losses_agree(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    examples, _ = encode(ROWS, Encoder(tokenizer), 64)
    stage_model = StageModel(model(name, tokenizer), tokenizer)
    losses = []
    for parts in ([examples], [[example] for example in examples]):  # together, and one a sequence
        arrays = [pack(part, 64, int(tokenizer.pad_token_id), seed=0) for part in parts]
        packed = {key: np.concatenate([array[key] for array in arrays]) for key in arrays[0]}
        n = len(packed["input_ids"])
        batch = batch_of(BatchSchedule([packed], 1, n, 0), n)
        losses.append(stage_model.loss(stage_model(batch), batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("lora", [False, True])
def test_training_computes_the_logits_of_learned_tokens_alone(
    name: str, lora: bool, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The loss and its gradient are those of all logits, which evaluation computes."""
    bare = model(name, tokenizer)
    if lora:
        bare = get_peft_model(bare, LoraConfig(target_modules="all-linear"))
    stage_model = StageModel(bare, None)
    if name == "t5":
        packed, _ = encode_seq2seq(ROWS, Encoder(tokenizer, seq2seq=True), 64)
    else:
        packed = pack(encode(ROWS, Encoder(tokenizer), 64)[0], 64, int(tokenizer.pad_token_id), seed=0)
    batch = batch_of(BatchSchedule([packed], 1, 6, 0), 6)
    batch["labels"][3] = IGNORED  # one sequence has nothing to learn
    losses = {}
    for training in (False, True):
        stage_model.train(training)
        logits = stage_model(batch)
        stage_model.loss(logits, batch).backward()
        gradients = {key: p.grad.clone() for key, p in stage_model.named_parameters() if p.grad is not None}
        stage_model.zero_grad()
        losses[training] = logits, stage_model.sequence_losses(logits, batch), gradients
    learned = int((batch["labels"] != IGNORED).sum())
    assert losses[False][0].shape[:2] == batch["labels"].shape and losses[True][0].shape == (learned, len(tokenizer))
    torch.testing.assert_close(losses[True][1:], losses[False][1:])
    assert losses[True][1][3] == 0


def test_an_encoder_decoder_learns_the_response_given_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """Against the model's own loss, one row at a time, without padding."""
    t5 = model("t5", tokenizer)
    stage_model = StageModel(t5, None)
    packed, _ = encode_seq2seq(ROWS, Encoder(tokenizer, seq2seq=True), 64)
    assert len(packed["labels"]) == len(ROWS)
    batch = batch_of(BatchSchedule([packed], 1, len(ROWS), 0), len(ROWS))
    ours = stage_model.loss(stage_model(batch), batch).item()
    summed, count = 0.0, 0
    for row in ROWS:
        prompt = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        learned = tokenizer(" " + row["response"])["input_ids"] + [tokenizer.eos_token_id]
        summed += float(t5(input_ids=prompt, labels=torch.tensor([learned])).loss) * len(learned)
        count += len(learned)
    assert ours == pytest.approx(summed / count, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_adapters_alone_are_trained_saved_and_read(
    name: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model(name, tokenizer).save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    adapted, _ = building.build(Model(name=str(tmp_path / "pretrained"), lora=LoRA(rank=2)), 1, Decoder())
    trained = {key for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in key for key in trained)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    weights.save_model(adapted, tmp_path / "stage")
    assert not (tmp_path / "stage" / "model.safetensors").exists()
    again = stored.read_model(tmp_path / "stage")
    state = dict(adapted.named_parameters())
    assert {key for key, parameter in again.named_parameters() if parameter.requires_grad} == trained
    assert all(torch.equal(parameter, state[key]) for key, parameter in again.named_parameters())
    shards = weights.read_shards(again, tmp_path / "stage")
    assert shards.keys() == trained
    assert weights.distance(tmp_path / "stage", tmp_path / "stage") == 0
