"""Log-probabilities of several continuations of one prompt, which is computed once.

The beginnings of the continuations follow their prompt in one row, as a tree: a token attends to the prompt and to the
tokens before it in its own continuation, and its position is the one that it has there.
"""

import inspect
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

Tokens = tuple[int, ...]
Row = TypeVar("Row", bound=Sized)

# A row joins a batch if it has at least this fraction of the longest row's length: the rest would be padding.
ALIKE = 0.9
UNLIMITED = 2**31  # tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens and the distinct, non-empty beginnings of continuations to be computed after it."""

    tokens: Tokens
    beginnings: tuple[Tokens, ...]

    def tree(self) -> list[Tokens]:
        """Every beginning up to each of its tokens, once; none comes before its own beginning."""
        return list(dict.fromkeys(b[:n] for b in self.beginnings for n in range(1, len(b) + 1)))

    def __len__(self) -> int:
        return len(self.tokens)


class SharedPrompts:
    """Computes prompts together with their continuations.

    Args:
        model: a causal language model that takes any mask.
        batch_size: the most prompts at once.
    """

    def __init__(self, model: Any, batch_size: int):
        self.model, self.batch_size = model, batch_size

    def logits(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, dict[Tokens, Tensor]]]:
        """For each prompt, the logits after it, then after every token of each beginning: ``[1 + len(beginning),
        vocabulary]``; those after the prompt alone stand under ``()``."""
        for batch in alike(prompts, self.batch_size):
            yield from zip(batch, self._of_batch(batch), strict=True)

    def _of_batch(self, prompts: Sequence[Prompt]) -> list[dict[Tokens, Tensor]]:
        """Prompts are padded on the left, so that the positions whose logits are wanted are the same in all rows, and
        trees on the right."""
        trees = [prompt.tree() for prompt in prompts]
        start, after = max(map(len, prompts)), max(map(len, trees))
        shape = (len(prompts), start + after)
        ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        seen = torch.eye(start + after, dtype=torch.bool).repeat(len(prompts), 1, 1)  # padding attends to itself
        places = [{node: start + place for place, node in enumerate(tree)} for tree in trees]
        for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
            first, end = start - len(prompt), start + len(place)
            ids[row, first:end] = torch.tensor([*prompt.tokens, *(node[-1] for node in place)])
            positions[row, first:start] = torch.arange(len(prompt))
            seen[row, first:start, first:start] = torch.ones(len(prompt), len(prompt)).tril().bool()
            seen[row, start:end, first:start] = True
            for node, at in place.items():
                positions[row, at] = len(prompt) + len(node) - 1
                if len(node) > 1:
                    seen[row, at] |= seen[row, place[node[:-1]]]
        found = []
        for prompt, place, logits in zip(prompts, places, self._forward(ids, positions, seen, after + 1), strict=True):
            after_prompt = {(): start - 1} | place
            paths = [(), *prompt.beginnings]
            wanted = {path: [after_prompt[path[:n]] + 1 - start for n in range(len(path) + 1)] for path in paths}
            found.append({path: logits[rows] for path, rows in wanted.items()})
        return found

    def _forward(self, ids: Tensor, positions: Tensor, seen: Tensor, keep: int) -> Tensor:
        """Logits ``[rows, keep, vocabulary]`` of the last positions of ``ids``."""
        device, dtype = self.model.device, self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        logits: Tensor = self.model(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            attention_mask=mask[:, None].to(device),
            use_cache=False,
            logits_to_keep=keep,
        ).logits
        return logits


def longest_shared(model: Any) -> int:
    """The most tokens of a row in which continuations may share their prompt: 0 if ``model`` has other state than keys
    and values, distances that do not follow from the positions it is given, or attention that takes no mask of its
    own; a layer's window if it has one, as a mask replaces that."""
    config = model.config.get_text_config(decoder=True)
    takes = {"position_ids", "past_key_values"} <= {*inspect.signature(model.forward).parameters}
    if not takes or not model._supports_default_dynamic_cache() or getattr(config, "alibi", False):
        return 0
    if config._attn_implementation not in ("eager", "sdpa"):
        return 0
    layers = DynamicCache(config=config).layers
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return 0
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    if "local" in getattr(config, "attention_layers", ()):  # of GPT-Neo
        windows.append(config.window_size)
    return min(windows, default=UNLIMITED)


def alike(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Batches of at most ``most`` rows of similar length, longest first."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (-len(row), repr(row))):
        if batch and (len(batch) == most or len(row) < ALIKE * len(batch[0])):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
