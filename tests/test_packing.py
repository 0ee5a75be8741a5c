"""Packing: nothing lost, nothing attended across examples, the loss of the global batch on any split."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from sfa.data import registered
from sfa.data.batches import BatchSchedule
from sfa.data.packing import IGNORED, encode, pack
from sfa.data.tokens import Encoder
from sfa.methods.multitask import Multitask
from sfa.models.tokenizer_training import train_tokenizer
from sfa.schedule import Duration
from sfa.stages.composer_model import StageModel

SEQ_LEN = 96


@pytest.fixture(scope="module")
def packed_rows():  # type: ignore[no-untyped-def]
    tokenizer = train_tokenizer(400, [registered("arithmetic")])
    rows = registered("arithmetic").rows("train")[:60]
    examples, cut = encode(rows, Encoder(tokenizer), SEQ_LEN)
    assert cut == 0 and len(examples) == len(rows)
    return tokenizer, rows, examples, pack(examples, SEQ_LEN, tokenizer.pad_token_id, seed=3)


def model(tokenizer) -> StageModel:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return StageModel(GPTNeoXForCausalLM(config), None)


def test_every_example_is_packed_once_and_whole(packed_rows) -> None:  # type: ignore[no-untyped-def]
    tokenizer, rows, examples, packed = packed_rows
    pieces = []
    for ids, positions, used in zip(packed["input_ids"], packed["position_ids"], packed["tokens"], strict=True):
        starts = [*np.flatnonzero(positions[:used] == 0), used]
        pieces += [ids[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert sorted(pieces) == sorted(example["input_ids"] for example in examples)
    texts = {tokenizer.decode(ids) for ids in pieces}
    assert {f"{row['prompt']} {row['response']}{tokenizer.eos_token}" for row in rows} == texts


def test_only_responses_are_learned(packed_rows) -> None:  # type: ignore[no-untyped-def]
    tokenizer, rows, examples, _ = packed_rows
    for row, example in zip(rows, examples, strict=True):
        learned = [token for token in example["labels"] if token != IGNORED]
        assert tokenizer.decode(learned) == f" {row['response']}{tokenizer.eos_token}"


def test_the_packed_loss_is_that_of_the_examples_alone(packed_rows) -> None:  # type: ignore[no-untyped-def]
    tokenizer, _, examples, packed = packed_rows
    stage_model, n = model(tokenizer), len(packed["input_ids"])
    steps = BatchSchedule([packed], steps=1, batch=n, seed=0)
    batch = {name: torch.stack([steps[i][name] for i in range(n)]) for name in steps[0]}
    together = stage_model.loss(stage_model(batch), batch)
    summed, count = torch.zeros(()), 0
    for example in examples:
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"])
        logits = stage_model.model(input_ids=ids).logits[0, :-1]
        summed += nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")
        count += int((labels[1:] != IGNORED).sum())
    assert together.item() == pytest.approx(summed.item() / count, rel=1e-5)


def test_parts_of_a_batch_average_to_the_loss_of_the_whole(packed_rows) -> None:  # type: ignore[no-untyped-def]
    tokenizer, _, _, packed = packed_rows
    stage_model = model(tokenizer)
    steps = BatchSchedule([packed], steps=1, batch=6, seed=0)
    batch = {name: torch.stack([steps[i][name] for i in range(6)]) for name in steps[0]}
    whole = stage_model.loss(stage_model(batch), batch)
    parts = []
    for rank in range(2):
        part = {name: tensor[rank::2] for name, tensor in batch.items()}
        parts.append(stage_model.loss(stage_model(part), part))
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_each_epoch_shows_every_sequence_once_in_a_new_order(packed_rows) -> None:  # type: ignore[no-untyped-def]
    _, _, _, packed = packed_rows
    n = len(packed["input_ids"])
    order = BatchSchedule([packed], steps=2 * n, batch=1, seed=0).order
    assert sorted(order[:n]) == sorted(order[n:]) == list(range(n))
    assert order[:n].tolist() != order[n:].tolist()
    assert BatchSchedule([packed], steps=2 * n, batch=1, seed=0).order.tolist() == order.tolist()


@pytest.mark.parametrize(
    ("duration", "steps"),
    [("1ep", 12), ("2ep", 25), ("300ba", 300), ("1_000ba", 1000), ("16384tok", 2), ("16385tok", 3)],
)
def test_durations_in_steps(duration: str, steps: int) -> None:
    assert Duration.parse(duration).step_count(sequences=100, batch=8, seq_len=1024) == steps


def test_a_balanced_mix_takes_as_many_sequences_of_each_task() -> None:
    """2 sequences of one task and 30 of another: 25 items of each, in epochs of their own; without balance, as many of
    each as they have."""
    small, large = ({"labels": np.full((n, 1), n)} for n in (2, 30))
    order = BatchSchedule([small, large], 10, 5, 17, balanced=True).order
    of_small, of_large = order[order < 2], order[order >= 2]
    assert len(of_small) == len(of_large) == 25
    assert all(sorted(of_small[i : i + 2]) == [0, 1] for i in range(0, 24, 2))
    assert len(set(of_large)) == 25
    assert not (order[:25] < 2).all() and not (order[:25] >= 2).all()  # mixed
    plain = BatchSchedule([small, large], 10, 5, 17).order
    assert sorted(plain[:32]) == [*range(32)]


def test_an_unbalanced_multitask_training_has_the_fingerprint_it_always_had() -> None:
    assert Multitask().weights_spec() == {}
    assert Multitask(balanced=True).weights_spec() == {"balanced": 2}
