"""The prompt as a model sees it: the same template for training and every evaluation."""

from __future__ import annotations

import contextlib
import datetime
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sfa.errors import one_line

if TYPE_CHECKING:  # a config is checked without transformers
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from sfa.data.task import Message

Template = Literal["plain", "instruction", "chat"]
DATE = datetime.date(2024, 7, 26)  # what Llama 3's templates write without a date
SECONDS = 5.0  # limit for rendering one conversation
PROBE, ANSWER = "What is it?", "Zq7answer7qZ"  # texts that no template alters or contains

# A template's ``strftime_now(format)`` with the codes of a fixed date. Render variables must be plain data, so the
# function itself is a macro; Jinja's ``trim_blocks`` removes the line break at its end.
STRFTIME = (
    "{%- macro strftime_now(format) -%}{%- set dated = namespace(text=format) -%}"
    "{%- for code, value in date_codes.items() -%}{%- set dated.text = dated.text.replace(code, value) -%}"
    "{%- endfor -%}{{ dated.text }}{%- endmacro %}\n"
)
CODES = ("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", *(f"%{code}" for code in "aAbBcdDeFGHIjmMpSTuUVwWxXyYZ%"))


class TemplateError(ValueError):
    """A chat template that is missing, or cannot render the conversation."""


@dataclass(frozen=True)
class Layout:
    """How a prompt is presented to a model.

    Attributes:
        template: ``plain`` is the bare prompt, ``instruction`` puts headings around it, for models that were not tuned
            to follow instructions, ``chat`` is the tokenizer's chat template.
        system: under ``chat``, the system message before every prompt; ``None``: none, or the template's own.
        date: the current date that a chat template receives.
    """

    template: Template = "plain"
    system: str | None = None
    date: datetime.date = DATE

    def extras(self) -> dict[str, str]:
        """What enters a fingerprint besides the template; empty for default settings."""
        extras = {} if self.system is None else {"system": self.system}
        return extras if self.date == DATE or self.template != "chat" else {**extras, "date": self.date.isoformat()}


class Turn(NamedTuple):
    """What a template writes around a turn of the assistant.

    Attributes:
        before: the text since the end of the turn before.
        separator: spaces between that and the turn.
        end: what ends the turn, up to its first control token; empty if the template writes none.
    """

    before: str
    separator: str
    end: str


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises a TimeoutError after ``seconds`` inside. Only in the main thread: no other can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it takes longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Prompter:
    """Renders prompts in a layout.

    Args:
        layout: the template and its variables.
        tokenizer: has the chat template; only used under ``chat``.

    Attributes:
        separator: the text between a rendered prompt and the response.
        end: under ``chat``, what ends a response: what the template writes after it, up to its first control token;
            empty if it writes none, and without ``chat``.

    Raises:
        TemplateError: the tokenizer has no chat template, or the template rejects the layout's conversation.
    """

    def __init__(self, layout: Layout, tokenizer: PreTrainedTokenizerBase | None):
        self.layout, self.tokenizer = layout, tokenizer
        self.separator, self.end, self._lead, self._generation = " ", "", "", False
        if layout.template == "chat":
            self._read_template()

    def __call__(self, prompt: str) -> str:
        """The text that comes before the separator and the response.

        Raises:
            TemplateError: the chat template fails on this prompt.
        """
        if self.layout.template == "plain":
            return prompt
        if self.layout.template == "instruction":
            return f"### Instruction:\n{prompt}\n\n### Response:"
        if self._generation:
            return self._render(prompt, generation=True, system=self.layout.system) + self._lead
        return self._around_answer(prompt)[0].rstrip(" ")

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """What the chat template writes around each turn of the assistant in a conversation.

        Args:
            messages: the last is the assistant's. Without a system message they get the layout's.

        Raises:
            TemplateError: the template fails on the conversation, or leaves out a turn.
        """
        system = self.layout.system
        given = system is None or messages[0]["role"] == "system"
        first: list[Message] = [] if given else [{"role": "system", "content": str(system)}]
        count = sum(message["role"] == "assistant" for message in messages)
        answers = iter(range(count))
        probes: list[Message] = [
            {**message, "content": f"{ANSWER}{next(answers)}."} if message["role"] == "assistant" else message
            for message in messages
        ]
        rest, turns, end = self._render_messages([*first, *probes]), list[Turn](), ""
        for i in range(count):
            before, found, rest = rest.partition(f"{ANSWER}{i}.")
            if not found:
                raise TemplateError("the tokenizer's chat template leaves an assistant's message out")
            assert self.tokenizer is not None, "checked by the constructor"
            start = before[len(end) :].rstrip(" ")
            separator = before[len(end) + len(start) :]
            end = _up_to_control(rest, self.tokenizer)
            turns.append(Turn(start, separator, end))
        return turns

    def _read_template(self) -> None:
        """Determines with a probe what the template writes around an answer. Spaces before the answer are the
        separator, as a prompt that ends with a space would be tokenized differently from the whole text; other text
        there, such as an empty thinking block, belongs to the prompt."""
        if self.tokenizer is None or self.tokenizer.chat_template is None:
            raise TemplateError(
                "the tokenizer has no chat template: set model.template to instruction or plain, or, for conversations "
                "name a model that has one, such as a copy with a file chat_template.jinja"
            )
        self._check_conversation()
        with_generation_prompt = self._render(PROBE, generation=True, system=self.layout.system)
        before, after = self._around_answer(PROBE)
        self._generation = with_generation_prompt != self._render(PROBE, system=self.layout.system)
        if not self._generation:
            self.separator = before[len(before.rstrip(" ")) :]
        else:
            rest = before[len(with_generation_prompt) :] if before.startswith(with_generation_prompt) else ""
            self._lead = rest.rstrip(" ")
            self.separator = rest[len(self._lead) :]
        self.end = _up_to_control(after, self.tokenizer)

    def _check_conversation(self) -> None:
        """Raises a :class:`TemplateError` that says what to do if the template rejects the layout's conversation or
        omits a message."""
        system = self.layout.system
        try:
            rendered = self._render(PROBE, generation=True, system=system)
        except TemplateError as error:
            alternative = "a system message" if system is None else None
            try:
                self._render(PROBE, generation=True, system=alternative)
            except TemplateError:
                raise error from error.__cause__
            hint = "set model.system" if system is None else "leave model.system out"
            raise TemplateError(f"model.system: {error}; {hint}") from error
        if PROBE not in rendered:
            raise TemplateError("the tokenizer's chat template leaves the user's message out")
        if system is not None and system.strip() not in rendered:
            raise TemplateError("model.system: the tokenizer's chat template leaves the system message out")

    def _around_answer(self, prompt: str) -> tuple[str, str]:
        """What the template writes before and after an answer to ``prompt``."""
        before, separator, after = self._render(prompt, ANSWER, system=self.layout.system).rpartition(ANSWER)
        if not separator:
            raise TemplateError("the tokenizer's chat template leaves the assistant's message out")
        return before, after

    def _render(
        self, prompt: str, answer: str | None = None, generation: bool = False, system: str | None = None
    ) -> str:
        """The conversation in the tokenizer's template, with the system message ``system`` if there is one."""
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": prompt})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self._render_messages(messages, generation)

    def _render_messages(self, messages: Sequence[Message], generation: bool = False) -> str:
        assert self.tokenizer is not None, "checked by the constructor"
        date = self.layout.date
        variables: dict[str, Any] = {
            "date_string": date.strftime("%d %b %Y"),
            "date_codes": {code: date.strftime(code) for code in CODES},
        }
        try:
            template = STRFTIME + self.tokenizer.get_chat_template()
            with limited(SECONDS):
                text = self.tokenizer.apply_chat_template(
                    [{"role": message["role"], "content": message["content"]} for message in messages],
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=generation,
                    **variables,
                )
        except Exception as error:  # a template is a program and may raise anything
            reason = one_line(error)
            raise TemplateError(f"the tokenizer's chat template fails: {reason}") from error
        return str(text)


def controls(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the tokenizer's control tokens, longest first."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*special, *tokenizer.all_special_tokens}, key=lambda text: (-len(text), text))


def _up_to_control(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """``text`` up to the end of its first control token; empty if it has none."""
    occurrences = [(text.index(token), token) for token in controls(tokenizer) if token in text]
    start, token = min(occurrences, key=lambda place: (place[0], -len(place[1])), default=(0, ""))
    return text[: start + len(token)]
