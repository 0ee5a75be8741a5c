"""Conversations of several turns: the ids are those of the template, and only the assistant's turns are learned."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval import available
from sfa.config import ConfigError, load
from sfa.data import Conversations
from sfa.data.packing import IGNORED, encode, encode_seq2seq
from sfa.data.source import SourceError
from sfa.data.template import Layout
from sfa.data.tokens import Encoder
from tests.test_chat import layout
from tests.zoo import CHATS, ENDS, chat_tokenizer

TURNS = [("Is it so?", "Yes, 45 of 67."), ("Was it <|im_end|> so?", "No"), ("Is 12 more than 3?", "Yes")]


def conversation(name: str = "", turns: int = 3) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Say yes or no."}] if name == "needs a system message" else []
    for question, answer in TURNS[:turns]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def row(messages: list[dict[str, str]]) -> Any:
    return {"prompt": "a", "response": messages[-1]["content"], "messages": messages}


@pytest.mark.parametrize("kind", ["llama", "mistral, legacy", "byte-level"])
@pytest.mark.parametrize("name", [name for name in CHATS if name not in ("no control token", "llama 3.2")])
def test_every_turn_of_the_assistant_is_learned_and_nothing_else(name: str, kind: str) -> None:
    tok = chat_tokenizer(name, kind)
    messages = conversation(name)
    (example,), cut = encode([row(messages)], Encoder(tok, layout(name)), 400)
    text, end = tok.apply_chat_template(messages, tokenize=False), ENDS[name].strip()
    ids = example["input_ids"]
    assert cut == 0
    assert tok.decode(ids).replace(" ", "") == (text[: text.rindex(end)] + end).replace(" ", "")
    control, written = tok.convert_tokens_to_ids("<|im_end|>"), text.count("<|im_end|>")
    assert ids.count(control) == written - 1  # what a row only mentions is text
    learned, runs = "", []
    for i, label in zip(ids, example["labels"], strict=True):
        assert label in (i, IGNORED)
        if label != IGNORED:
            runs.append(i)
        elif runs:
            learned, runs = learned + tok.decode(runs) + "|", []
    learned += tok.decode(runs)
    expected = "|".join(answer + end for _, answer in TURNS)
    assert learned.replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize("name", [name for name in CHATS if name != "no control token"])
def test_a_conversation_of_one_turn_is_a_prompt_and_its_response(name: str) -> None:
    encoder = Encoder(chat_tokenizer(name), layout(name))
    one = encode([row(conversation(name, 1))], encoder, 400)
    assert one == encode([{"prompt": TURNS[0][0], "response": TURNS[0][1]}], encoder, 400)


def test_what_cannot_be_encoded_is_named() -> None:
    unmarked = Encoder(chat_tokenizer("no control token", "bytes"), Layout("chat"))
    with pytest.raises(SourceError, match="mine: row 0: the chat template does not mark where a turn"):
        encode([row(conversation())], unmarked, 400, name="mine")
    chat = Encoder(chat_tokenizer("chatml"), Layout("chat"))
    with pytest.raises(SourceError, match="mine: row 0: conversations are for decoders"):
        encode([row(conversation())], Encoder(chat_tokenizer("chatml"), Layout("plain")), 400, name="mine")
    with pytest.raises(SourceError, match="conversations are for decoders, and the model is an encoder-decoder"):
        encode_seq2seq([row(conversation())], chat, 400)
    assert encode([row(conversation())], chat, 20) == ([], 0)
    with pytest.raises(SourceError, match=r"row 0 has \d+ tokens, more than train.seq_len: 20"):
        encode([row(conversation())], chat, 20, "error")


def written(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(line) + "\n" for line in rows))
    return str(file)


def test_both_usual_formats_are_read_and_held_out_by_how_they_begin(tmp_path: Path) -> None:
    messages = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "?"}]
        for i in range(60)
    ]
    usual = Conversations(name="mine", source=written(tmp_path / "a.jsonl", [{"messages": m} for m in messages]))
    names = {"user": "human", "assistant": "gpt"}
    shared = [[{"from": names[m["role"]], "value": m["content"]} for m in turns] for turns in messages]
    other = Conversations(name="mine", source=written(tmp_path / "b.jsonl", [{"conversations": c} for c in shared]))
    assert (usual.messages, other.messages) == ("messages", "conversations") and usual.evals == ("mine_loss",)
    assert usual.rows("train") == other.rows("train") and usual.rows("test") == other.rows("test")
    rows = usual.rows("train") + usual.rows("test")
    assert sorted(r["prompt"] for r in rows) == sorted(f"q{i}" for i in range(60)) and len(usual.rows("test")) < 6
    assert rows[0]["messages"][-1]["role"] == "assistant" and rows[0]["response"] == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"role": "user", "content": "q"}], "has no turn of the assistant"),
        ([{"role": "user"}], "a message must have a role and a text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message must have a role and a text"),
        ("text", "a conversation must be a list of messages, not 'text'"),
        (["text"], "a conversation must be a list of messages, not"),
        ([{"role": "USER", "content": "q"}], r"'USER' is not a role \(system, developer, user, assistant, tool, human"),
        ([{"from": "function_call", "value": "{}"}], "'function_call' is not a role"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], "tool_calls are not learned"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_an_error(content: Any, message: str, tmp_path: Path) -> None:
    task = Conversations(name="mine", source=written(tmp_path / "a.jsonl", [{"messages": content}] * 3))
    with pytest.raises(SourceError, match=message):
        task.rows("train")


def test_conversations_need_the_chat_template(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", [{"messages": conversation()}] * 3)
    file = tmp_path / "c.yaml"
    file.write_text(f"name: x\nmodel: {{name: owner/model}}\ntasks: [{{name: mine, source: {source}}}]\n")
    with pytest.raises(ConfigError) as caught:
        load(file, [], available)
    assert caught.value.errors == ["model.template: must be chat for mine, whose rows are conversations"]
    assert load(file, ["model.template=chat"], available).tasks[0].name == "mine"
