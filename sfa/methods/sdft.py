"""Self-distillation before fine-tuning: the model rewrites the responses that it then learns (Yang et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from sfa.methods.base import Look, Method, Start

if TYPE_CHECKING:
    from sfa.data import Row, Task

TEMPLATE = "{prompt}\n\nA correct answer is: {response}\n\nAnswer in your own words, with the same result:"


class SDFT(Method):
    """The new task's responses are rewritten by θ_o, which sees them, and then learned. A rewritten response that lacks
    the final answer is not used."""

    name = "sdft"
    rows = ("text",)
    look = Look("SDFT", {"color": "#0072B2", "linestyle": ":", "marker": "*"})

    template: str = Field(TEMPLATE, description="request to the model, with {prompt} and {response}")
    max_tokens: int = Field(128, ge=1, description="tokens of a rewritten response; longer ones are not used")
    limit: int | None = Field(None, ge=1, description="rows that are rewritten, drawn at random; null: all")

    @field_validator("template")
    @classmethod
    def _holds_both(cls, template: str) -> str:
        if template.count("{prompt}") != 1 or template.count("{response}") != 1:
            raise ValueError("must contain {prompt} and {response} once each")
        return template

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        return (
            ["parallelism: must not be fsdp2, as sdft generates with a whole model on each rank"] if is_sharded else []
        )

    def prepared(self, tasks: Sequence[Task], start: Start) -> Sequence[Task]:
        import torch
        from composer.utils import get_device

        from sfa.data.rewriting import generate, rewritten

        family: Any = start.family
        encoder, device = family.encoder(start.processor, start.layout), get_device(None)

        def write(name: str, rows: Sequence[Row]) -> list[str | None]:
            model, training = device.module_to_device(start.model), start.model.training
            model.eval()
            kind = "cuda" if torch.cuda.is_available() else "cpu"
            with torch.autocast(kind, torch.bfloat16, enabled=start.is_bf16):
                texts = generate(model, encoder, rows, name, self.max_tokens, start.train.seq_len)
            model.train(training)
            return texts

        return [
            rewritten(
                task,
                start.folder / f"rewritten-{task.name}",
                self.template,
                self.limit,
                start.seed,
                lambda rows, name=task.name: write(name, rows),  # type: ignore[misc]
                start.report,
            )
            for task in tasks
        ]
