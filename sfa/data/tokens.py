"""Text to token ids, in one place, so that training, scoring and generation use the same ids."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import mark_control_tokens

from sfa.data.source import SourceError
from sfa.data.task import Message, Row
from sfa.data.template import Layout, Prompter, TemplateError, controls

Pair = tuple[list[int], list[int]]  # ids of a prompt, and of a response without its end token
MARKERS = ("a", "\n", ".", "0", "A:")  # texts after which a response is tokenized if that fails after its prompt
MARK = mark_control_tokens("x", re.compile("x"))[0]  # what transformers puts before a control token's text


class Encoder:
    """Token ids of prompts and responses in one layout.

    A decoder's prompt begins with the special tokens that the tokenizer adds before a text (BOS, [CLS]) and never ends
    with those it adds after one; an encoder receives both. Under ``chat`` nothing is added: the template writes all
    control tokens. A control token's text inside a row stays text.

    Args:
        tokenizer: the model's tokenizer.
        layout: how prompts are presented.
        seq2seq: whether the model is an encoder-decoder, whose prompt and response are separate texts.

    Attributes:
        prompter: renders a prompt.
        end: ids that end a response: the end of turn under ``chat``, else the tokenizer's end of text.

    Raises:
        TemplateError: the chat template is missing or fails.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: Layout | None = None, seq2seq: bool = False):
        self.tokenizer, self.seq2seq, self.layout = tokenizer, seq2seq, layout or Layout()
        self.prompter = Prompter(self.layout, tokenizer)
        self._chat = self.layout.template == "chat"
        self._literal = re.compile("|".join(map(re.escape, controls(tokenizer))) or r"(?!)")
        known = [tokenizer.convert_tokens_to_ids(text) for text in controls(tokenizer)]
        self._controls = {*known} - {tokenizer.unk_token_id}
        self.prefix, self.suffix = ([], []) if self._chat else _added(tokenizer)
        self.end: list[int] = []
        self.end = self._ids_of_end(self.prompter.end)
        self.head, self.tail = self._frame()

    def encode_rows(self, rows: Sequence[Row], name: str) -> list[Pair]:
        """The ids of each row.

        Raises:
            SourceError: the template fails on a row, or the tokenizer cannot continue its prompt; names ``name`` and
                the row.
        """
        responses = [self.prompter.separator + row["response"] for row in rows]
        return self.encode_pairs(self.render_prompts(rows, name), responses, lambda number: f"{name}: row {number}")

    def render_prompts(self, rows: Sequence[Row], name: str) -> list[str]:
        """The prompts of rows, rendered in the layout.

        Raises:
            SourceError: the template fails on a row; names ``name`` and the row.
        """
        prompts = []
        for number, row in enumerate(rows):
            try:
                prompts.append(self.prompter(self.literal(row["prompt"])))
            except TemplateError as error:
                raise SourceError(f"{name}: row {number}: {error}") from error
        return prompts

    def literal(self, text: str) -> str:
        """``text`` with a mark around every control token's text in it, which distinguishes a chat template's control
        tokens from those that the text only mentions."""
        return str(mark_control_tokens(text, self._literal)) if self._chat else text

    def encode_prompts(self, rendered: Sequence[str]) -> list[list[int]]:
        """Ids of rendered prompts: the input of generation or of an encoder."""
        return [self._whole(start, ids) for start, ids in self._bodies(rendered)]

    def encode_pairs(
        self, rendered: Sequence[str], continuations: Sequence[str], place: Callable[[int], str]
    ) -> list[Pair]:
        """Ids of rendered prompts, and of their continuations including the separator. The whole text is tokenized
        once; where it does not start with the prompt's ids, because a token would cross the boundary, the
        continuation's ids are taken after another text, such that they decode to the same text.

        Raises:
            SourceError: there are no such ids; ``place`` names the position.
        """
        following = [self.literal(text) for text in continuations]
        unique = {text: i for i, text in enumerate(dict.fromkeys(rendered))}
        bodies = self._bodies(list(unique))
        starts = [bodies[unique[text]] for text in rendered]
        prompts = [self._whole(start, ids) for start, ids in bodies]
        prompt_ids = [prompts[unique[text]] for text in rendered]
        if self.seq2seq:
            return list(zip(prompt_ids, self._tokenize(following), strict=True))
        texts = [self._without_bos(text)[1] + more for text, more in zip(rendered, following, strict=True)]
        whole = self._tokenize(texts)
        continuation_ids: list[list[int] | None] = [
            ids[len(body) :] if ids[: len(body)] == body else None for ids, (_, body) in zip(whole, starts, strict=True)
        ]
        crossed = [i for i, ids in enumerate(continuation_ids) if ids is None]
        after = self._after_markers([(starts[i][1], whole[i], following[i], continuations[i]) for i in crossed])
        for i, ids in zip(crossed, after, strict=True):
            if ids is None:
                what = f"a prompt that ends {rendered[i][-20:]!r} with {continuations[i][:20]!r}"
                raise SourceError(f"{place(i)}: the tokenizer cannot continue {what}; try another model.template")
            continuation_ids[i] = ids
        return [(prompt, ids) for prompt, ids in zip(prompt_ids, continuation_ids, strict=True) if ids is not None]

    def _after_markers(self, rows: Sequence[tuple[list[int], list[int], str, str]]) -> list[list[int] | None]:
        """For each row (ids of the prompt, ids of the whole text, continuation with and without marks) the ids of the
        continuation after the first marker for which prompt and continuation decode to the right text: exactly, or,
        since some decoders lose spaces, up to spaces."""
        continuation_ids: list[list[int] | None] = [None] * len(rows)
        for spaces in (True, False):
            for marker in MARKERS:
                waiting = [i for i, ids in enumerate(continuation_ids) if ids is None]
                before, *after = self._tokenize([marker, *(marker + rows[i][2] for i in waiting)])
                tried = [
                    (i, ids[len(before) :])
                    for i, ids in zip(waiting, after, strict=True)
                    if ids[: len(before)] == before
                ]
                spelled = self._spelled([rows[i][0] + ids for i, ids in tried], spaces)
                wholes = self._spelled([rows[i][1] for i, _ in tried], spaces)
                prompts = self._spelled([rows[i][0] for i, _ in tried], spaces)
                for (i, ids), text, whole, prompt in zip(tried, spelled, wholes, prompts, strict=True):
                    continuation = rows[i][3] if spaces else "".join(rows[i][3].split())
                    if text in (whole, prompt + continuation):
                        continuation_ids[i] = ids
        return continuation_ids

    def encode_turns(self, messages: Sequence[Message], place: str) -> list[Pair]:
        """The ids before each turn of the assistant in a conversation, since the end of the turn before, and those of
        the turn with its end. Joined, they are those of the whole conversation in the tokenizer's template.

        Raises:
            SourceError: the template fails, does not mark the end of a turn that others follow, or the tokenizer cannot
                continue a prompt, or the model has no chat template or is an encoder-decoder; names ``place``.
        """
        if self.seq2seq or not self._chat:
            raise SourceError(f"{place}: conversations are for decoders, with model.template: chat")
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        try:
            marked: list[Message] = [{**message, "content": self.literal(message["content"])} for message in messages]
            turns = self.prompter.turns(marked)
            ends = [self._ids_of_end(turn.end) for turn in turns]
        except TemplateError as error:
            raise SourceError(f"{place}: {error}") from error
        if not all(turn.end for turn in turns[:-1]):
            raise SourceError(f"{place}: the chat template does not mark where a turn of the assistant ends")
        pairs: list[Pair] = []
        closed, closing = "", list[int]()  # the control token that separates what follows from the turn before
        for turn, answer, end in zip(turns, answers, ends, strict=True):
            before, continuation = closed + turn.before, turn.separator + answer
            ((prompt, ids),) = self.encode_pairs([before], [continuation], lambda _: place)
            if prompt[: len(closing)] != closing:
                raise SourceError(f"{place}: the tokenizer cannot separate the end of a turn, {closed!r}")
            pairs.append((prompt[len(closing) :], ids + end))
            closed, closing = str(self.tokenizer.convert_ids_to_tokens(end[-1])), end[-1:]
        return pairs

    def room(self, length: int) -> int:
        """Tokens that remain for a prompt's own text in a rendered prompt of ``length`` tokens."""
        return length - self.head - self.tail

    def cut(self, prompt: list[int], room: int) -> list[int]:
        """A prompt of at most ``room`` tokens: the middle of its own text is removed, none of the template's.

        Raises:
            SourceError: the template itself needs more room.
        """
        if len(prompt) <= room:
            return prompt
        left = self.room(room)
        if left < 1:
            raise SourceError(f"{self.head + self.tail} tokens around every prompt leave no room for it in {room}")
        first = self.head + (left + 1) // 2
        return prompt[:first] + prompt[len(prompt) - (room - first) :]

    def _bodies(self, rendered: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """For each prompt, the ids before its text and those of its text."""
        starts, texts = zip(*map(self._without_bos, rendered), strict=True) if rendered else ((), ())
        return list(zip(starts, self._tokenize(list(texts)), strict=True))

    def _whole(self, start: list[int], ids: list[int]) -> list[int]:
        whole = start + ids + (self.suffix if self.seq2seq else [])
        if whole:
            return whole
        bos = self.tokenizer.bos_token_id  # a prediction needs at least one token
        return [self.tokenizer.eos_token_id if bos is None else bos]

    def _without_bos(self, text: str) -> tuple[list[int], str]:
        """The ids that begin a prompt, and its text without a leading BOS."""
        bos = self.tokenizer.bos_token
        if self._chat or not bos or not text.startswith(bos):
            return self.prefix, text
        return self.prefix or [self.tokenizer.bos_token_id], text.removeprefix(bos)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids without added special tokens. Only control tokens written by a chat template are tokenized as such."""
        if not texts:
            return []
        options: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        if not self._chat:
            ids_by_text = self.tokenizer(texts, split_special_tokens=True, **options)["input_ids"]
            return [self._as_text(ids) for ids in ids_by_text]
        ids_by_text = list(self.tokenizer(texts, **options)["input_ids"])
        for i, text in enumerate(texts):
            if MARK in text:
                try:
                    ids_by_text[i] = self.tokenizer(text, sanitize_control_tokens=True, **options)["input_ids"]
                except ValueError as error:  # a unigram model, whose pieces include control tokens
                    raise SourceError(f"a row contains the text of a control token: {error}") from error
        return ids_by_text

    def _as_text(self, ids: list[int]) -> list[int]:
        """``ids`` with control tokens spelled out in characters: a unigram model finds control tokens in plain text."""
        if self._controls.isdisjoint(ids):
            return ids
        spelled: list[int] = []
        for i in ids:
            if i not in self._controls:
                spelled.append(i)
                continue
            characters = map(self.tokenizer.convert_tokens_to_ids, str(self.tokenizer.convert_ids_to_tokens(i)))
            spelled += [character for character in characters if isinstance(character, int)]
        return spelled

    def _spelled(self, rows: Sequence[list[int]], spaces: bool) -> list[str]:
        texts = self.tokenizer.batch_decode(list(rows), clean_up_tokenization_spaces=False) if rows else []
        return list(texts) if spaces else ["".join(text.split()) for text in texts]

    def _ids_of_end(self, end: str) -> list[int]:
        """The ids of what ends a turn, or the end of text if that is empty."""
        if not end:
            if self.tokenizer.eos_token_id is None:
                raise TemplateError("the tokenizer has no end-of-text token, so no response would end")
            return [int(self.tokenizer.eos_token_id)]
        if end == self.prompter.end and self.end:
            return self.end
        for marker in MARKERS:
            before, whole = self._tokenize([marker, marker + end])
            if whole[: len(before)] == before:
                return whole[len(before) :]
        raise TemplateError(f"the tokenizer cannot separate the end of a turn, {end!r}, from the text before it")

    def _frame(self) -> tuple[int, int]:
        """The number of tokens that all prompts share at the start and at the end."""
        first, second = self.encode_prompts([self.prompter("What is it"), self.prompter("7 of 8")])
        shorter = min(len(first), len(second))
        head = next((i for i in range(shorter) if first[i] != second[i]), shorter)
        tail = next((i for i in range(shorter - head) if first[-1 - i] != second[-1 - i]), shorter - head)
        return head, tail


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer adds before and after a text.

    Raises:
        TemplateError: it also changes the text.
    """
    for text in ("a", "0", "."):
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer(text)["input_ids"]
        for start in range(len(whole) - len(bare) + 1 if bare else 0):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    raise TemplateError("the special tokens that the tokenizer adds cannot be separated from the text")
