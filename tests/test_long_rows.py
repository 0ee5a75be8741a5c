"""Rows that do not fit: left out, cut in the middle of their prompt, or an error; always counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM

from eval.evaluator import Evaluations
from eval.kind import Settings
from eval.lm import LiveLM
from sfa import config as configs
from sfa.data import Task
from sfa.data.packing import IGNORED, encode, encode_seq2seq
from sfa.data.source import SourceError
from sfa.data.template import Layout
from sfa.data.text_arrays import DecoderArrays
from sfa.data.tokens import Encoder
from sfa.stages.describe import describe
from sfa.stages.plan import plan
from tests.zoo import chat_tokenizer, tokenizer

LONG: Any = {"prompt": "Is it so? " * 40 + "Say yes.", "response": "Yes"}
SHORT: Any = {"prompt": "Is it so?", "response": "No"}
ENDLESS: Any = {"prompt": "Is it so?", "response": "Yes, 45 of 67. " * 40}
ROWS = [SHORT, LONG, ENDLESS]
LAYOUTS = [("plain", "llama"), ("instruction", "llama"), ("instruction", "mistral"), ("chat", "llama")]


def encoder(template: Any, name: str) -> Encoder:
    tok = chat_tokenizer("gemma", name) if template == "chat" else tokenizer(name)
    return Encoder(tok, Layout(template))


@pytest.mark.parametrize(("template", "name"), LAYOUTS)
def test_a_cut_takes_the_middle_out_of_a_prompt_and_nothing_else(template: Any, name: str) -> None:
    coder = encoder(template, name)
    whole = coder.encode_rows(ROWS, "rows")
    examples, cut = encode(ROWS, coder, 64, "cut")
    assert cut == 1 and len(examples) == 2  # the response of the last leaves no room
    (prompt, response), ids = whole[1], examples[1]["input_ids"]
    learned = [label for label in examples[1]["labels"] if label != IGNORED]
    assert learned == response + coder.end and len(ids) == 64
    prompt_ids = ids[: len(ids) - len(learned)]
    head = next(i for i, (a, b) in enumerate(zip(prompt_ids, prompt, strict=False)) if a != b)
    assert head > coder.head and prompt_ids[head - len(prompt_ids) :] == prompt[head - len(prompt_ids) :]
    text = coder.tokenizer.decode(prompt_ids, skip_special_tokens=False)
    for part in {"plain": ["<s>"], "instruction": ["<s>", "### Instruction:", "### Response:"]}.get(
        template, ["<s>", "<start_of_turn>user", "<end_of_turn>", "<start_of_turn>model\n"]
    ):
        assert part in text
    assert "Say yes." in text


def test_the_default_leaves_long_rows_out() -> None:
    examples, cut = encode(ROWS, encoder("plain", "llama"), 64)
    assert cut == 0 and len(examples) == 1
    packed, cut = encode_seq2seq(ROWS, Encoder(tokenizer("unigram"), seq2seq=True), 64)
    assert cut == 0 and len(packed["labels"]) == 1


def test_an_error_names_the_row_and_its_length() -> None:
    coder = encoder("plain", "llama")
    length = sum(map(len, coder.encode_rows(ROWS, "rows")[1])) + 1
    with pytest.raises(SourceError, match=rf"law: row 1 has {length:,} tokens, more than train.seq_len: 64"):
        encode(ROWS, coder, 64, "error", "law")
    assert encode([SHORT], coder, 64, "error")[1] == 0


def test_an_encoder_and_a_decoder_have_the_length_each() -> None:
    coder = Encoder(tokenizer("unigram"), seq2seq=True)
    packed, cut = encode_seq2seq(ROWS, coder, 64, "cut")
    assert cut == 1 and len(packed["labels"]) == 2
    prompt_ids = packed["input_ids"][1][packed["attention_mask"][1] == 1]
    assert len(prompt_ids) == 64 and prompt_ids[-1] == coder.tokenizer.eos_token_id
    fits: Any = {"prompt": "Is it so? " * 4, "response": "Yes, 45 of 67. " * 2}
    assert len(encode_seq2seq([fits], coder, 64)[0]["labels"]) == 1


@pytest.mark.parametrize("room", [40, 41, 48, 49])
def test_a_response_may_leave_a_quarter_to_the_prompt(room: int) -> None:
    """Of 64 tokens, 16 at least are the prompt's own."""
    coder = encoder("plain", "llama")
    (_, response), end = coder.encode_rows([LONG], "rows")[0], len(coder.end)
    words: Any = {**LONG, "response": "Yes"}
    while len(response) + end < 64 - coder.head - room // 3:
        words = {**words, "response": words["response"] + " 1"}
        response = coder.encode_rows([words], "rows")[0][1]
    examples, _ = encode([words], coder, 64, "cut")
    assert bool(examples) == (64 - len(response) - end - coder.head >= 16)


class Given(Task):
    """Rows of a test."""

    def rows(self, split: Any) -> list[Any]:
        return ROWS


def test_what_was_dropped_and_cut_is_counted(tmp_path: Path) -> None:
    coder = encoder("plain", "llama")
    for rule, counts in (("drop", {"dropped": 2, "cut": 0}), ("cut", {"dropped": 1, "cut": 1})):
        data = DecoderArrays(coder, 64, rule)  # type: ignore[arg-type]
        changed = data.training([Given(name="given")], 0, tmp_path)[1]
        assert changed == counts and data.training([Given(name="given")], 0, tmp_path)[1] == counts
        assert len(data.examples(Given(name="given"), 3, 0)) == 3 - counts["dropped"]
    assert len(list(tmp_path.glob("given-*"))) == 2
    DecoderArrays(coder, 64, "drop", packs=False).training([Given(name="given")], 0, tmp_path)
    assert len(list(tmp_path.glob("given-*"))) == 3
    with pytest.raises(SourceError, match=r"given: no row fits into train\.seq_len: 5 tokens"):
        DecoderArrays(coder, 5).training([Given(name="given")], 0, tmp_path)


def model(size: int, positions: int = 400) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=positions, **sizes)).eval()


def test_a_held_out_loss_follows_the_rule_and_says_how_many_rows_it_is_of() -> None:
    tok = tokenizer("llama")
    scores = []
    for rule in ("drop", "cut"):
        evaluations = Evaluations(["licences_loss"], [], Settings(seq_len=64, long_rows=rule))  # type: ignore[arg-type]
        evaluations.kinds["licences_loss"].sources["licences_loss"] = Given(name="given")
        (score,) = evaluations(model(len(tok)), tok)
        scores.append((score["n"], score.get("dropped", 0), score.get("cut", 0)))
    assert scores == [(1, 2, 0), (2, 1, 1)]
    evaluations = Evaluations(["licences_loss"], [], Settings(seq_len=5))
    evaluations.kinds["licences_loss"].sources["licences_loss"] = Given(name="given")
    with pytest.raises(SourceError, match="no row fits"):
        evaluations(model(len(tok)), tok)


def test_a_context_longer_than_the_model_loses_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    tok = tokenizer("llama")
    lm = LiveLM(pretrained=model(len(tok), positions=64), tokenizer=tok, batch_size=4)
    lm.use(Layout("instruction"))
    prompts = lm.encoder.render_prompts([SHORT, LONG], "rows")
    requests = [
        Instance("loglikelihood", {}, (text, " Yes"), 0, metadata=("licences", i, 1)) for i, text in enumerate(prompts)
    ]
    scores = lm.loglikelihood(requests)
    assert lm.cut == {("licences", 1)}
    (prompt_ids, response) = lm.encoder.encode_pairs([prompts[1]], [" Yes"], str)[0]
    kept = 65 - len(response)
    first = lm.encoder.head + (kept - lm.encoder.head - lm.encoder.tail + 1) // 2
    ids = prompt_ids[:first] + prompt_ids[len(prompt_ids) - (kept - first) :]
    with torch.no_grad():
        logs = lm.model(torch.tensor([[*ids, *response][:-1]])).logits[0].log_softmax(-1)
    by_hand = sum(float(logs[len(ids) - 1 + k, token]) for k, token in enumerate(response))
    assert scores[1][0] == pytest.approx(by_hand, rel=1e-4)
    context, mask = None, None

    def generate(context_: Any, attention_mask: Any) -> Any:
        nonlocal context, mask
        context, mask = context_, attention_mask
        return context_

    monkeypatch.setattr(
        lm, "_model_generate", lambda context, max_length, stop, **o: generate(context, o["attention_mask"])
    )
    options = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    lm.generate_until([Instance("generate_until", {}, (prompts[1], options), 0, metadata=("returns", 7, 1))])
    assert context is not None and context.shape == (1, 56) and ("returns", 7) in lm.cut
    text = tok.decode(context[0])
    assert text.startswith("<s>") and "### Instruction:" in text and text.endswith("### Response:")


def test_a_model_without_a_table_of_positions_has_no_limit() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    tok = tokenizer("llama")
    config = MambaConfig(vocab_size=len(tok), hidden_size=16, num_hidden_layers=1, state_size=4)
    lm = LiveLM(pretrained=MambaForCausalLM(config).eval(), tokenizer=tok, batch_size=2)
    assert lm.max_length > 10**6
    assert np.isfinite(lm.loglikelihood([Instance("loglikelihood", {}, ("Is it so? " * 700, " Yes"), 0)])[0][0])
    assert lm.cut == set()


def test_the_rule_is_in_the_plan_where_it_is_not_the_default_and_in_the_dry_run() -> None:
    file = Path("yamls/quickstart.yaml")
    prints = {}
    for rule in ("drop", "cut", "error"):
        config = configs.load(file, [f"train.long_rows={rule}"])
        prints[rule] = plan(config)[1].fingerprint
        assert f"(train.long_rows: {rule})" in describe(config)
    assert len(set(prints.values())) == 3 and prints["drop"] == plan(configs.load(file))[1].fingerprint
    assert "long_rows" not in plan(configs.load(file))[1].spec()["train"]
    with pytest.raises(configs.ConfigError, match=r"model\.system: is used only with model\.template: chat"):
        configs.load(file, ["model.system=Be kind."])
