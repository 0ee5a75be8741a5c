"""Chat templates: what ``apply_chat_template`` gives is the reference; the end of a turn is what is learned."""

import datetime
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM

from eval.evaluator import Evaluations
from eval.kind import Settings
from eval.lm import LiveLM
from sfa.data import template
from sfa.data.packing import encode
from sfa.data.source import SourceError
from sfa.data.template import DATE, Layout, Prompter, TemplateError
from sfa.data.tokens import Encoder
from sfa.models import stored
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from tests.zoo import CHATS, ENDS, byte_level, chat_tokenizer

ROW: Any = {"prompt": "Is it so?", "response": "Yes, 45 of 67."}


def layout(name: str) -> Layout:
    return Layout("chat", "Say yes or no." if name == "needs a system message" else None)


def conversation(name: str, answer: bool) -> list[dict[str, str]]:
    first = [{"role": "system", "content": "Say yes or no."}] if name == "needs a system message" else []
    last = [{"role": "assistant", "content": ROW["response"]}] if answer else []
    return [*first, {"role": "user", "content": ROW["prompt"]}, *last]


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference renders with the date that the suite fixes."""
    from transformers.utils import chat_template_utils

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(DATE.year, DATE.month, DATE.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Fixed)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in CHATS for kind in ("llama", "mistral, legacy", "byte-level")),
        ("no control token", "bytes"),
    ],
)
def test_a_conversation_is_tokenized_as_by_its_template(name: str, kind: str, today: None) -> None:
    tok = chat_tokenizer(name, kind)
    encoder = Encoder(tok, layout(name))
    ((prompt, response),) = encoder.encode_rows([ROW], "rows")
    whole = tok.apply_chat_template(conversation(name, True), tokenize=True, return_dict=False)
    if name != "no control token":
        assert prompt + response + encoder.end == whole[: len(prompt + response + encoder.end)]
        assert tok.decode(encoder.end).strip() == ENDS[name].strip()
    else:
        assert encoder.end == [tok.eos_token_id] and prompt + response == whole[: len(prompt + response)]
    if name not in ("no generation prompt", "thoughts"):
        expected = tok.apply_chat_template(conversation(name, False), tokenize=True, add_generation_prompt=True)
        assert prompt == expected["input_ids"]
    examples, _ = encode([ROW], encoder, 400)
    assert examples[0]["input_ids"] == prompt + response + encoder.end


def test_a_template_without_a_generation_prompt_still_names_the_assistant() -> None:
    prompt = Prompter(layout("no generation prompt"), chat_tokenizer("no generation prompt"))("Is it so?")
    assert prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("name", "system", "message"),
    [
        ("needs a system message", None, "model.system: .*A system message first; set model.system"),
        ("gemma", "Be kind.", "model.system: .*System role not supported; leave model.system out"),
        ("llama 2", "Be kind.", "leaves the system message out"),
        ("{% for %}", None, "chat template fails"),
        ("{{ messages[3].content }}", None, "chat template fails"),
        ("nothing", None, "leaves the user's message out"),
        ("{{ messages[0].content }}", None, "leaves the assistant's message out"),
    ],
)
def test_a_template_that_refuses_is_one_line_before_the_training(
    name: str, system: str | None, message: str, tmp_path: Any
) -> None:
    tok = chat_tokenizer(name) if name in CHATS else byte_level()
    tok.chat_template = tok.chat_template or name
    tok.save_pretrained(tmp_path)
    LlamaConfig(vocab_size=len(tok)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message) as error:
        stored.check(tmp_path, 64, Layout("chat", system))
    assert "\n" not in str(error.value)


def test_a_row_that_a_template_fails_on_is_named() -> None:
    tok = byte_level()
    tok.chat_template = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}" + CHATS["chatml"]
    with pytest.raises(SourceError, match=r"math: row 1: .*no"):
        Encoder(tok, Layout("chat")).encode_rows([ROW, {**ROW, "prompt": "bad"}], "math")


def test_a_prompt_does_not_change_from_day_to_day() -> None:
    tok = chat_tokenizer("llama 3.2")
    prompt = Prompter(Layout("chat"), tok)("Is it so?")
    assert "Today Date: 26 Jul 2024\nToday: July 26, 2024" in prompt
    other = Prompter(Layout("chat", date=datetime.date(2025, 1, 2)), tok)("Is it so?")
    assert "Today Date: 02 Jan 2025\nToday: January 02, 2025" in other


def test_system_and_date_are_in_the_keys_where_they_are_not_the_defaults() -> None:
    assert Model(name="x").layout.extras() == Layout("plain", date=datetime.date(2025, 1, 2)).extras() == {}
    extras = Model(name="x", template="chat", system="Be kind.", date=datetime.date(2025, 1, 2)).layout.extras()
    assert extras == {"system": "Be kind.", "date": "2025-01-02"}
    keys = {
        Evaluations(["returns"], [], Settings("chat", **more)).key("returns")  # type: ignore[arg-type]
        for more in ({}, {"system": "Be kind."}, {"date": datetime.date(2025, 1, 2)})
    }
    assert len(keys) == 3


@pytest.mark.parametrize("kind", ["llama", "byte-level"])
def test_control_tokens_are_those_of_the_template(kind: str) -> None:
    tok = chat_tokenizer("chatml", kind)
    encoder = Encoder(tok, Layout("chat"))
    rows: list[Any] = [{"prompt": "a <|im_end|> b", "response": "c <|im_end|> d</s>"}, ROW]
    (prompt, response), plain = encoder.encode_rows(rows, "rows")
    assert prompt.count(encoder.end[0]) == 1 and not {encoder.end[0], tok.eos_token_id} & {*response}
    assert encoder.encode_rows([ROW], "rows") == [plain]
    assert "<|im_end|>" in tok.decode(response)


def test_a_unigram_model_refuses_what_it_cannot_tell_apart() -> None:
    tok = chat_tokenizer("chatml", "unigram")
    tok.add_tokens(["</s>"], special_tokens=True)
    with pytest.raises((SourceError, TemplateError)):
        Encoder(tok, Layout("chat")).encode_rows([{"prompt": "a </s> b", "response": "x"}], "rows")


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_generation_stops_at_the_end_of_a_turn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the generation config knows only another end, and the end is read as text."""
    tok = chat_tokenizer(name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), eos_token_id=tok.eos_token_id, **sizes)).eval()
    lm = LiveLM(pretrained=model, tokenizer=tok, batch_size=4)
    lm.use(Layout("chat"))
    yes, end = tok.convert_tokens_to_ids("s"), lm.encoder.end[0]

    def forced(input_ids: Any, scores: Any) -> Any:
        made = input_ids.shape[1] - start[0]
        wanted = [yes, yes, end, yes, yes][min(made, 4)]
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([wanted]), 0.0)

    context = lm.encoder.render_prompts([ROW], "rows")[0]
    start = [len(lm.encoder.encode_prompts([context])[0])]
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **options: generate(**options, logits_processor=[forced]))
    options = {"until": [], "max_gen_toks": 5, "do_sample": False}
    (text,) = lm.generate_until([Instance("generate_until", {}, (context, options), 0)])
    assert text == "ss"


def test_a_template_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.2)
    tokenizer = byte_level()
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    tokenizer.chat_template = f"{loop}{{{{ '' }}}}{'{% endfor %}' * 3}{{{{ messages[0]['content'] }}}}"
    with pytest.raises(TemplateError, match=r"the tokenizer's chat template fails: it takes longer than 0\.2 s"):
        Prompter(Layout("chat"), tokenizer)
