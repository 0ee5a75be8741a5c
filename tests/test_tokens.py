"""The ids of a row are the same in training, in every evaluation and where generation starts, for every tokenizer."""

from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from eval.evaluator import Evaluations
from eval.kind import Settings
from eval.lm import LiveLM
from sfa.data import Task
from sfa.data.packing import IGNORED, encode, pad_each
from sfa.data.template import Layout
from sfa.data.text_arrays import content
from sfa.data.tokens import Encoder
from tests.zoo import ZOO, byte_level, tokenizer

PROMPTS = ["Is it so?", "Is 12 more than 3? ", "Say yes.\n", "", "Is it </s> so?"]
RESPONSES = ["Yes", "No", "12", "\nYes", " Yes", "是", "a </s> b", "Yes, 45 of 67."]
ROWS: list[Any] = [{"prompt": prompt, "response": response} for prompt in PROMPTS for response in RESPONSES]


def tiny(size: int, seq2seq: bool = False) -> Any:
    torch.manual_seed(0)
    if seq2seq:
        sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}
        return T5ForConditionalGeneration(T5Config(vocab_size=size, decoder_start_token_id=0, **sizes)).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, initializer_range=0.3, **sizes)).eval()


def seen(lm: LiveLM, monkeypatch: pytest.MonkeyPatch, rows: list[Any], prompts: list[str]) -> tuple[Any, Any]:
    """The ids that lm-eval scores of each row, and those that its generation starts from."""
    scored: list[Any] = []
    monkeypatch.setattr(
        lm, "_loglikelihood_tokens", lambda prompt, **_: scored.extend(prompt) or [(0.0, True)] * len(prompt)
    )
    pairs = [(text, lm.encoder.prompter.separator + row["response"]) for text, row in zip(prompts, rows, strict=True)]
    lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    started: dict[str, list[int]] = {}

    def generate(context: Any, attention_mask: Any, **_: Any) -> Any:
        for row, mask in zip(context, attention_mask, strict=True):
            started[str(len(started))] = row[mask.bool()].tolist()
        return context

    monkeypatch.setattr(lm, "_model_generate", lambda context, max_length, stop, **more: generate(context, **more))
    options = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
    lm.generate_until([Instance("generate_until", {}, (text, dict(options)), i) for i, text in enumerate(prompts)])
    return [(prompt, learned) for _, prompt, learned in scored], list(started.values())


@pytest.mark.parametrize("template", ["plain", "instruction"])
@pytest.mark.parametrize("name", list(ZOO))
def test_training_scoring_and_generation_see_the_same_ids(
    name: str, template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tok = tokenizer(name)
    encoder = Encoder(tok, Layout(template))
    pairs = encoder.encode_rows(ROWS, "rows")
    examples, _ = encode(ROWS, encoder, 400)
    for (prompt, response), example in zip(pairs, examples, strict=True):
        learned = [label for label in example["labels"] if label != IGNORED]
        assert example["input_ids"] == prompt + learned and learned == [*response, tok.eos_token_id]
    lm = LiveLM(pretrained=tiny(len(tok)), tokenizer=tok, batch_size=64)
    lm.use(Layout(template))
    scored, started = seen(lm, monkeypatch, ROWS, encoder.render_prompts(ROWS, "rows"))
    assert scored == pairs
    assert sorted(started) == sorted(prompt for prompt, _ in pairs)


@pytest.mark.parametrize("name", list(ZOO))
def test_a_row_is_the_whole_text_tokenized_once(name: str) -> None:
    """Where no token crosses the boundary, prompt and response are the tokenizer's own ids of the whole."""
    tok = tokenizer(name)
    encoder = Encoder(tok)
    ((prompt, response),) = encoder.encode_rows([{"prompt": "Is it so?", "response": "Yes"}], "rows")
    whole = tok("Is it so? Yes")["input_ids"]
    appended = len(tok("a")["input_ids"]) - len(tok("a", add_special_tokens=False)["input_ids"]) - len(encoder.prefix)
    if name != "metaspace, across words":
        assert prompt + response == whole[: len(whole) - appended]
    assert tok.eos_token_id not in prompt + response and len(response) > 0
    text = tok.decode(prompt + response, skip_special_tokens=True)
    assert text.replace(" ", "").lower() == "isitso?yes"


@pytest.mark.parametrize("name", list(ZOO))
def test_control_tokens_in_a_row_stay_text(name: str) -> None:
    tok = tokenizer(name)
    encoder = Encoder(tok)
    row: Any = {"prompt": f"Is {tok.eos_token} it?", "response": f"a {tok.eos_token} b"}
    ((prompt, response),) = encoder.encode_rows([row], "rows")
    assert tok.eos_token_id not in prompt[1:] + response


def test_a_prompt_gets_one_bos_row_by_row() -> None:
    encoder = Encoder(tokenizer("llama"))
    rows: list[Any] = [{"prompt": text, "response": "Yes"} for text in ("Is it so?", "<s>Is it so?")]
    (first, _), (second, _) = encoder.encode_rows(rows, "rows")
    assert first == second and first.count(encoder.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["unigram", "bytes", "byte-level, eos appended"])
def test_an_encoder_is_given_what_the_tokenizer_adds_and_a_response_is_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tok = tokenizer(name)
    encoder = Encoder(tok, seq2seq=True)
    rows: list[Any] = [row for row in ROWS if row["prompt"].startswith("Is it so")]
    pairs = encoder.encode_rows(rows, "rows")
    assert all(prompt == tok("Is it so?")["input_ids"] for prompt, _ in pairs)
    assert all(tok.eos_token_id not in response for _, response in pairs)
    lm = LiveLM(pretrained=tiny(len(tok), seq2seq=True), tokenizer=tok, batch_size=64)
    scored, started = seen(lm, monkeypatch, rows, encoder.render_prompts(rows, "rows"))
    assert scored == pairs and started == [prompt for prompt, _ in pairs[: len(started)]]


@pytest.mark.parametrize("name", ["mistral, legacy", "byte-level, eos appended", "word pieces", "bytes", "unigram"])
def test_what_was_learned_is_scored_as_right(name: str) -> None:
    """A model that knows the answers by heart chooses all of them."""
    tok = tokenizer(name)
    answers = {"Is it so?": "Yes", "Was it so?": "No", "Say yes or no.": "Yes", "Today Date": "No"}
    rows: list[Any] = [{"prompt": p, "response": r, "choices": ["Yes", "No"]} for p, r in answers.items()]
    model, (examples, _) = tiny(len(tok)), encode(rows, Encoder(tok), 64)
    batch = {key: torch.from_numpy(array) for key, array in pad_each(examples, int(tok.pad_token_id)).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
        optimizer.step()
    evaluations = Evaluations(["licences"], [], Settings())
    evaluations.kinds["licences"].sources["licences"] = Fixed(name="fixed", fixed_rows=rows)
    (score,) = evaluations(model, tok)
    assert score["value"] == 1


class Fixed(Task):
    """Gives an evaluation these rows."""

    fixed_rows: list[Any]

    def rows(self, split: Any) -> list[Any]:
        return self.fixed_rows


def test_the_content_of_a_tokenizer_is_all_that_it_saves(tmp_path: Any) -> None:
    base = content(byte_level())
    changed = byte_level()
    changed.eos_token = "<|im_end|>"
    other = byte_level()
    other.pad_token = "</s>"
    third = byte_level()
    third.chat_template = "{{ messages }}"
    assert all(content(tokenizer_) != base for tokenizer_ in (changed, other, third, byte_level(add_eos_token=True)))
    for name in ("byte-level", "mistral", "bytes", "word pieces"):
        tokenizer_ = ZOO[name]()
        tokenizer_.save_pretrained(tmp_path / name)
        again = type(tokenizer_).from_pretrained(tmp_path / name)
        before = content(again)
        again(["a", "bb"], padding=True, truncation=True, max_length=1)
        after = content(again)
        settings = ("padding_side", "truncation_side", "pad_token_type_id")
        for tok in (before, after):
            for key in settings:
                tok["tokenizer_config.json"].pop(key, None)
        assert before == after
