"""Self-distillation: which rewritten responses are used, and that they are the model's likeliest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from sfa.data.answers import keeps_answer
from sfa.data.rewriting import filled, generate, rewritten
from sfa.data.task import Row, Split, Task
from sfa.data.tokens import Encoder
from sfa.methods import METHODS
from tests import tiny
from tests.zoo import tokenizer

KINDS = ["permissive", "copyleft"]
GSM = "3 + 4 = 7 dogs have 28 legs.\n#### 28"


@pytest.mark.parametrize(
    ("response", "choices", "text", "kept"),
    [
        ("28", None, "Seven dogs have 7 * 4 = 28 legs.", True),
        ("28", None, "28 dogs have 112 legs", False),
        ("1,200", None, "That is $1200.00", True),
        (GSM, None, "The answer is 28, since 7 dogs have 4 legs each.", True),
        (GSM, None, "7 dogs have 21 legs. #### 21", False),
        ("So the answer is: 5", None, "2 and 3 are 5", True),
        ("permissive", KINDS, "This licence is Permissive.", True),
        ("permissive", KINDS, "permissive, not copyleft", False),
        ("no", None, "Of course it is known", False),
        ("a b c d e f", None, "anything at all", True),
        ("a b c d e f", None, " ", False),
    ],
)
def test_a_rewritten_response_is_used_if_its_final_answer_is_the_same(
    response: str, choices: list[str] | None, text: str, kept: bool
) -> None:
    row: Row = {"prompt": "?", "response": response}
    assert keeps_answer(row if choices is None else {**row, "choices": choices}, text) == kept


class Sums(Task):
    """Without a default name, so that it does not register itself."""

    def rows(self, split: Split) -> list[Row]:
        return [{"prompt": f"{i} + {i}", "response": str(2 * i)} for i in range(6)]


def test_rows_are_rewritten_once_and_the_others_stay(tmp_path: Path) -> None:
    lines: list[str] = []

    def write(rows: Any) -> list[str | None]:
        assert all(
            row["prompt"] == f"Say {row['response']} for {int(row['response']) // 2} + {int(row['response']) // 2}"
            for row in rows
        )
        return [f"It is {row['response']}" if row["response"] in ("2", "4") else "It is 7" for row in rows[:-1]] + [
            None
        ]

    def made(write: Any) -> list[Row]:
        task = rewritten(
            Sums(name="sums"), tmp_path / "rows", "Say {response} for {prompt}", None, 0, write, lines.append
        )
        assert task.name == "sums" and "rewritten" in task.data_spec()
        return list(task.rows("train"))

    first = made(write)
    assert [row["response"] for row in first] == ["0", "It is 2", "It is 4", "6", "8", "10"]
    assert [row["prompt"] for row in first] == [f"{i} + {i}" for i in range(6)]
    assert made(None) == first and len(lines) == 1 and "rewrote 2 of 6" in lines[0]
    some = rewritten(
        Sums(name="sums"), tmp_path / "some", "{prompt}{response}", 2, 0, lambda rows: ["x"] * len(rows), lines.append
    )
    assert len(some.rows("train")) == 6 and "of 2 responses" in lines[1]


def test_a_template_may_hold_braces_and_rows_any_text() -> None:
    row: Row = {"prompt": "f{response}", "response": "{prompt}"}
    assert filled("{{a}} {prompt} then {response}.", row) == "{{a}} f{response} then {prompt}."
    with pytest.raises(ValueError, match="must contain"):
        METHODS["sdft"].model_validate({"template": "only {prompt}"})


@pytest.mark.parametrize("seq2seq", [False, True])
def test_generated_is_the_likeliest_token_after_token(seq2seq: bool) -> None:
    """Against a loop without padding, batches and caches."""
    tok = tokenizer("byte-level")
    torch.manual_seed(0)
    model: Any
    if seq2seq:
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tok), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
            )
        )
    else:
        model = LlamaForCausalLM(LlamaConfig(**{**tiny.SIZES, "vocab_size": len(tok)}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.eval()
    encoder, tokens = Encoder(tok, seq2seq=seq2seq), 12
    rows: list[Row] = [
        {"prompt": text, "response": ""} for text in ("Is it so?", "Yes", "12 is more than 3, and no less")
    ]
    ids = encoder.encode_prompts([row["prompt"] for row in rows])
    expected: list[list[int]] = []
    for prompt in ids:
        written: list[int] = []
        for _ in range(tokens):
            if seq2seq:
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *written]])).logits
            else:
                logits = model(input_ids=torch.tensor([prompt + written])).logits
            written.append(int(logits[0, -1].argmax()))
        expected.append(written)
    encoder.end = [expected[0][5]]  # so that one ends
    ends = [row.index(encoder.end[0]) if encoder.end[0] in row else None for row in expected]
    texts = [
        None if n is None else tok.decode(row[:n], skip_special_tokens=True).strip()
        for row, n in zip(expected, ends, strict=True)
    ]
    assert generate(model, encoder, rows, "rows", tokens, 100) == texts
    assert texts[0] is not None
    if not seq2seq:
        assert generate(model, encoder, rows, "rows", tokens, tokens) == [None] * 3  # no room
