"""Log-probabilities of several continuations of one prompt, which is computed once."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

Tokens = tuple[int, ...]

# A row joins a batch if it has at least this fraction of the longest row's length: the rest would be padding.
ALIKE = 0.9


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens and the distinct, non-empty beginnings of continuations to be computed after it."""

    tokens: Tokens
    beginnings: tuple[Tokens, ...]


class SharedPrompts:
    """Computes prompts, and then their continuations from the prompts' keys and values.

    Args:
        model: a causal language model with a key-value cache.
        new_cache: makes an empty cache for it.
        batch_size: the most rows, and so the most copies of a prompt's keys and values, at once; one prompt's
            beginnings may be more.
    """

    def __init__(self, model: Any, new_cache: Callable[[], DynamicCache], batch_size: int):
        self.model, self.new_cache, self.batch_size = model, new_cache, batch_size
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def logits(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, dict[Tokens, Tensor]]]:
        """For each prompt, the logits after it, then after every token of each beginning: ``[1 + len(beginning),
        vocabulary]``; those after the prompt alone stand under ``()``."""
        for batch in self._batches(prompts):
            yield from zip(batch, self._of_batch(batch), strict=True)

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        batch: list[Prompt] = []
        for prompt in sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.tokens)):
            rows = sum(len(other.beginnings) for other in [*batch, prompt])
            if batch and (rows > self.batch_size or len(prompt.tokens) < ALIKE * len(batch[0].tokens)):
                yield batch
                batch = []
            batch.append(prompt)
        if batch:
            yield batch

    def _of_batch(self, prompts: Sequence[Prompt]) -> list[dict[Tokens, Tensor]]:
        """Prompts are padded on the left, so that what follows is next to them, and beginnings on the right."""
        longest = max(len(prompt.tokens) for prompt in prompts) + 1  # a mask that masks nothing is slow, see lm.py
        mask = torch.tensor([[0] * (longest - len(p.tokens)) + [1] * len(p.tokens) for p in prompts])
        ids = torch.tensor([[0] * (longest - len(p.tokens)) + [*p.tokens] for p in prompts])
        cache = self.new_cache()
        last = self._forward(ids, mask, cache, logits_to_keep=1)[:, -1]
        owners = [i for i, prompt in enumerate(prompts) for _ in prompt.beginnings]
        beginnings = [beginning for prompt in prompts for beginning in prompt.beginnings]
        width = max(map(len, beginnings))
        cache.batch_select_indices(torch.tensor(owners, device=last.device))
        following = torch.tensor([[*b] + [0] * (width - len(b)) for b in beginnings])
        given = torch.tensor([[1] * len(b) + [0] * (width - len(b)) for b in beginnings])
        after = self._forward(following, torch.cat([mask[owners], given], 1), cache)
        found: list[dict[Tokens, Tensor]] = [{(): last[i : i + 1]} for i in range(len(prompts))]
        for owner, beginning, row in zip(owners, beginnings, after, strict=True):
            found[owner][beginning] = torch.cat([last[owner : owner + 1], row[: len(beginning)]])
        return found

    def _forward(self, ids: Tensor, mask: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
        """Logits ``[rows, tokens, vocabulary]`` of ``ids``, which follow what ``cache`` holds; ``mask`` covers both."""
        device = self.model.device
        if self.takes_positions:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            options["position_ids"] = positions.to(device)
        logits: Tensor = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache, use_cache=True, **options
        ).logits
        return logits
