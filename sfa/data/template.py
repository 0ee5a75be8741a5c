"""The prompt as a model sees it: one template for training and for every evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a config is checked without transformers
    from transformers import PreTrainedTokenizerBase

Template = Literal["plain", "instruction", "chat"]


def render(prompt: str, template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that comes before the response and its separator.

    ``plain`` is the prompt as it is, ``instruction`` puts headings around it, for models that were never tuned to
    follow instructions, ``chat`` is the tokenizer's own chat template.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if template == "plain":
        return prompt
    if template == "instruction":
        return f"### Instruction:\n{prompt}\n\n### Response:"
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template: set model.template to instruction or plain")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return str(text)


def separator(template: Template) -> str:
    """What stands between the rendered prompt and the response: a chat template ends where the response begins."""
    return "" if template == "chat" else " "


def has_bos(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a rendered prompt already starts with the token that begins every sequence."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
