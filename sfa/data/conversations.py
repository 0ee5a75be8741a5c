"""A data set of conversations: every turn of the assistant is learned, in the tokenizer's chat template."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, model_validator

from sfa.data.formats import SourceRow
from sfa.data.source import SourceError, columns, find
from sfa.data.sourced_task import SourcedTask
from sfa.data.task import Message, Row, Split, data_folder_of

COLUMNS = ("messages", "conversations")  # of the two usual formats, {role, content} and {from, value}
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
KNOWN = ("system", "developer", "user", "assistant", "tool")  # roles of chat templates


class Conversations(SourcedTask):
    """``{name: mine, source: chats.jsonl}`` with a column ``messages``, lists of ``{role, content}``, or
    ``conversations``, lists of ``{from, value}``; scored by the loss on the assistant's turns of held-out rows.
    ``model.template`` must be ``chat``."""

    messages: str = Field("messages", description="column of the conversations; default: messages or conversations")
    train_split: str = "train"
    test_split: str | None = Field(None, description="null: test or validation, or else one row in fifty")

    @model_validator(mode="before")
    @classmethod
    def _column_and_score(cls, options: Any, info: ValidationInfo) -> Any:
        if "name" in options:
            options = {"evals": [*cls.declares(options["name"])], **options}
        if "messages" in options or not isinstance(options.get("source"), str):
            return options
        source = find(options["source"], data_folder_of(info.context))
        named = columns(source, str(options.get("train_split", "train")))
        return {"messages": next((name for name in COLUMNS if name in named), COLUMNS[0]), **options}

    @model_validator(mode="after")
    def _two_splits(self) -> "Conversations":
        if self.test_split == self.train_split and not self.evaluate_only:
            raise ValueError(f"test_split: {self.test_split} is the split that the task is trained on")
        return self

    def rows(self, split: Split) -> list[Row]:
        """One row for each conversation; messages after the assistant's last one are left out."""

        def examples(row: SourceRow) -> list[Row]:
            conversation = row[self.messages]
            if not isinstance(conversation, list) or not all(isinstance(item, Mapping) for item in conversation):
                raise SourceError(
                    f"{self.source}: a conversation must be a list of messages, not {conversation!r:.120}"
                )
            messages = [self._message(item) for item in conversation]
            answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            if not answers:
                raise SourceError(f"{self.source}: a conversation has no turn of the assistant: {str(messages)[:120]}")
            first, last = answers[0], answers[-1]
            prompt = "\n".join(message["content"] for message in messages[:first])
            return [{"prompt": prompt, "response": messages[last]["content"], "messages": messages[: last + 1]}]

        return self.split_rows(split, [self.messages], examples, self.train_split, self.test_split)

    def _message(self, item: Mapping[str, Any]) -> Message:
        """A message of either format.

        Raises:
            SourceError: it is of neither, or its content is not text.
        """
        role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if isinstance(content, list):  # parts of text, as multimodal templates have them
            texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
            content = "".join(map(str, texts)) if texts and len(texts) == len(content) else None
        if not isinstance(role, str) or not isinstance(content, str):
            message = f"a message must have a role and a text, not {str(dict(item))[:120]}"
            raise SourceError(f"{self.source}: {message}")
        role = ROLES.get(role, role)
        if role not in KNOWN:
            raise SourceError(f"{self.source}: {role!r} is not a role ({', '.join((*KNOWN, *ROLES))})")
        if item.get("tool_calls"):
            raise SourceError(
                f"{self.source}: tool_calls are not learned: write them into the content of their message"
            )
        return {"role": role, "content": content}
