"""lm-eval's wrapper of a live model: the same scores with less computation and without progress bars."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eval.shared_prompts import UNLIMITED, Prompt, SharedPrompts, Tokens, alike, longest_shared
from sfa.data.source import SourceError
from sfa.data.template import Layout
from sfa.data.tokens import Encoder
from sfa.families.text import position_count

Encoded = tuple[tuple[str, str], list[int], list[int]]
WORTH_SHARING = 8  # tokens in which all contexts of a batch begin, from which on these are computed once


class LiveLM(HFLM):
    """Tokenizes as in training, see :class:`sfa.data.tokens.Encoder`, and cuts the middle of a too long context, not
    its start. For a decoder, three things that lm-eval computes and discards are skipped: logits of positions that are
    not scored, with their softmax over the vocabulary; padding up to the longest of many rows; and finished rows of a
    generation until the last one has finished. What all prompts of a batch begin with, such as examples, is computed
    once. Everything else is lm-eval's.

    Attributes:
        cut: tasks and row numbers of the contexts that were too long.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.cut: set[tuple[str | None, int | None]] = set()
        self.use(Layout())

    def use(self, layout: Layout) -> None:
        """Sets the ``layout`` in which the following contexts were rendered."""
        self.encoder = Encoder(self.tokenizer, layout, self.backend == "seq2seq")
        self._contexts: dict[str, list[int]] = {}  # of the current generation
        self._too_long: set[str] = set()

    @property
    def max_length(self) -> int:
        """Positions of the model, or else the tokenizer's limit; without either, there is no limit."""
        positions = position_count(self.model.config) or int(self.tokenizer.model_max_length)
        return min(int(self._max_length or positions), UNLIMITED)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        texts = list(dict.fromkeys(request.args[0] for request in requests))
        self._contexts, self._too_long = dict(zip(texts, self.encoder.encode_prompts(texts), strict=True)), set()
        written = list(super().generate_until(requests, disable_tqdm=True))
        self.cut |= {(request.task_name, request.doc_id) for request in requests if request.args[0] in self._too_long}
        return written

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Ids of a context of the current generation, as in training; of any other text, as in lm-eval."""
        known = self._contexts.get(string)
        return known if known is not None else list(super().tok_encode(string, *args, **options))

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask ``[rows, longest]`` of contexts of the current generation, left-padded."""
        rows = [self._contexts[string] for string in strings]
        if left_truncate_len is not None:
            self._too_long |= {s for s, row in zip(strings, rows, strict=True) if len(row) > left_truncate_len}
            rows = [self.encoder.cut(row, left_truncate_len) for row in rows]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        contexts, continuations = zip(*(request.args for request in requests), strict=True)
        pairs = self.encoder.encode_pairs(contexts, continuations, lambda at: f"{requests[at].task_name}: a choice")
        encoded: list[Encoded] = []
        for request, (context, continuation) in zip(requests, pairs, strict=True):
            if not continuation:
                raise SourceError(f"{request.task_name}: the choice {request.args[1]!r} has no token to score")
            room = self.max_length + (0 if self.encoder.seq2seq else 1 - len(continuation))
            if len(context) > room:
                self.cut.add((request.task_name, request.doc_id))
            encoded.append((request.args, self.encoder.cut(context, room), continuation))
        return self._loglikelihood_tokens(encoded)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Summed log-probability of each continuation after its context, and whether each of its tokens is the
        likeliest. Requests that differ only in the last token share a row, and those of one context the context."""
        if self.backend != "causal" or not self.model._supports_logits_to_keep():
            return list(super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs))
        batch_size = override_bs or self.batch_size
        contexts: dict[Tokens, list[int]] = {}
        for i, (_, context, _) in enumerate(requests):
            contexts.setdefault(tuple(context), []).append(i)
        prompts, room = [], self._longest_shared()
        for tokens, indices in contexts.items():
            beginnings = dict.fromkeys(tuple(requests[i][2][:-1]) for i in indices)
            prompt = Prompt(tokens, tuple(filter(None, beginnings)))
            if len(beginnings) > 1 and len(prompt) + len(prompt.tree()) <= room:
                prompts.append(prompt)
        scores = self._scores_after(prompts, contexts, requests, batch_size)
        shared: dict[Tokens, list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            if i not in scores:
                shared.setdefault(tuple((context + continuation)[-self.max_length - 1 : -1]), []).append(i)
        for batch in alike(list(shared), batch_size):
            wanted = [max(len(requests[i][2]) for i in shared[row]) for row in batch]
            for row, logs in zip(batch, self._last_logs(batch, wanted), strict=True):
                scores |= {i: _score(logs, requests[i][2]) for i in shared[row]}
        return [scores[i] for i in range(len(requests))]

    def _scores_after(
        self,
        prompts: Sequence[Prompt],
        contexts: Mapping[Tokens, Sequence[int]],
        requests: Sequence[Encoded],
        batch_size: int,
    ) -> dict[int, tuple[float, bool]]:
        """The scores of all requests of ``prompts``, by their indices in ``requests``."""
        scores = {}
        with torch.no_grad(), self._precision():
            for prompt, logits in SharedPrompts(self.model, batch_size).logits(prompts):
                logs = {b: each.log_softmax(-1, dtype=self.softmax_dtype) for b, each in logits.items()}
                for i in contexts[prompt.tokens]:
                    scores[i] = _score(logs[tuple(requests[i][2][:-1])], requests[i][2])
        return scores

    def _longest_shared(self) -> int:
        return longest_shared(self.model)

    def _last_logs(self, rows: Sequence[Tokens], wanted: Sequence[int]) -> Iterator[Tensor]:
        """For each row of tokens, the log-probabilities after each of its last ``wanted`` ones, ``[wanted, vocab]``."""
        inputs = pad_sequence([torch.tensor(row, device=self.device) for row in rows], batch_first=True)
        options: dict[str, Any] = {}
        if self.device.type == "cpu":
            # Without a mask, torch 2.7 on CPU uses an attention kernel that is not fused if heads share keys, which
            # takes three times as long. Transformers drops masks that mask nothing, hence at least one column of
            # padding.
            inputs = torch.nn.functional.pad(inputs, (0, 1))
            lengths = torch.tensor([len(row) for row in rows])
            options["attention_mask"] = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
        positions = sorted({at for row, n in zip(rows, wanted, strict=True) for at in range(len(row) - n, len(row))})
        options["logits_to_keep"] = torch.tensor(positions, device=self.device)
        with torch.no_grad(), self._precision():
            logits = self.model(input_ids=inputs, use_cache=False, **options).logits
        for logit, row, n in zip(logits, rows, wanted, strict=True):
            first = positions.index(len(row) - n)
            yield logit[first : first + n].log_softmax(-1, dtype=self.softmax_dtype)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        """Tokens ``[rows, max_length]``, each row with its ``context`` and end-of-text tokens after its end. Finished
        rows are removed while the others continue."""
        ends = self._ends()
        options["eos_token_id"] = ends.tolist() or None
        cache = self._cache()
        if cache is None or options.get("do_sample") or options.get("num_beams", 1) > 1:
            written: Tensor = super()._model_generate(context, max_length, stop, **options)
            return self._without_rest(written, 1 if self.encoder.seq2seq else context.shape[1], ends)
        options.pop("temperature", None)
        mask = options.pop("attention_mask")
        ended = self._ended(stop, context.shape[1], ends)
        written = context.new_full((len(context), max_length), self.tokenizer.eos_token_id)
        rows = torch.arange(len(context), device=context.device)
        with self._precision():  # once, as it casts every weight
            ids, mask = self._after_beginning(context, mask, max_length, cache)
            while len(rows) and ids.shape[1] < max_length:
                ids = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_length=max_length,
                    stopping_criteria=StoppingCriteriaList([_Any(ended)]),
                    pad_token_id=self.tokenizer.pad_token_id,
                    return_dict_in_generate=True,
                    use_cache=True,
                    **options,
                ).sequences
                written[rows, context.shape[1] : ids.shape[1]] = ids[:, context.shape[1] :]
                unfinished = (~ended(ids)).nonzero()[:, 0]
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                ids, mask, rows = ids[unfinished], mask[unfinished], rows[unfinished]
                cache.batch_select_indices(unfinished)
        written[:, : context.shape[1]] = context
        return self._without_rest(written, context.shape[1], ends)

    def _after_beginning(
        self, context: Tensor, mask: Tensor, max_length: int, cache: DynamicCache
    ) -> tuple[Tensor, Tensor]:
        """``context`` and ``mask`` with the tokens in which all contexts begin, such as an instruction or examples,
        before the padding. Those are computed once, into ``cache``, where continuations may share them."""
        lengths = mask.sum(1)
        rows = [row[-length:] for row, length in zip(context, lengths.tolist(), strict=True)]
        first = torch.stack([row[: int(lengths.min()) - 1] for row in rows])
        same = int((first == first[0]).all(0).long().cumprod(0).sum())
        if len(rows) == 1 or same < WORTH_SHARING or max_length > self._longest_shared():
            return context, mask
        fewer = {"logits_to_keep": 1} if self.model._supports_logits_to_keep() else {}
        with torch.no_grad():
            self.model(input_ids=rows[0][None, :same], past_key_values=cache, use_cache=True, **fewer)
        cache.batch_repeat_interleave(len(rows))
        kept = torch.arange(context.shape[1], device=context.device) >= (context.shape[1] - lengths + same)[:, None]
        ids = context.masked_fill(~kept, self.tokenizer.pad_token_id)[:, same:]
        beginning = rows[0][:same].expand(len(rows), same)
        return torch.cat([beginning, ids], 1), torch.cat([torch.ones_like(beginning), kept[:, same:].long()], 1)

    def _ends(self) -> Tensor:
        """The tokens that end a text: the model's, and the one that ends a response in training."""
        eos = self.model.generation_config.eos_token_id
        ends = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
        return torch.tensor(sorted({*ends, self.encoder.end[-1]}), dtype=torch.long, device=self.device)

    def _without_rest(self, written: Tensor, start: int, ends: Tensor) -> Tensor:
        """``written`` with end-of-text tokens in place of the end of a response and everything after any end: these are
        never decoded to text, unlike padding, or an end of turn that is not a special token."""
        generated = written[:, start:]
        ended = torch.isin(generated, ends.to(generated.device)).long()
        over = (ended.cumsum(1) - ended > 0) | (generated == self.encoder.end[-1])
        written[:, start:] = generated.masked_fill(over, self.tokenizer.eos_token_id)
        return written

    def _cache(self) -> DynamicCache | None:
        """An empty key-value cache; ``None`` if the model has other state, such as an encoder's or a recurrent one,
        from which rows cannot be removed."""
        if self.backend != "causal" or not self.model._supports_default_dynamic_cache():
            return None
        cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        return cache if plain else None

    def _ended(self, stop: Sequence[str], start: int, ends: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that returns for each row whether its last token ends it, as one of ``ends`` or part of a stop
        string; the first ``start`` tokens are the context. Two more tokens than a stop string has are decoded, as it
        may be tokenized differently."""
        reach = 2 + max((len(self.tokenizer.encode(word, add_special_tokens=False)) for word in stop), default=0)

        def ended(ids: Tensor) -> Tensor:
            tails = self.tokenizer.batch_decode(ids[:, start:][:, -reach:])
            stopped = [any(word and word in tail for word in stop) for tail in tails]
            return torch.tensor(stopped, device=ids.device) | torch.isin(ids[:, -1], ends)

        return ended

    def _precision(self) -> torch.autocast:
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


class PlainLM(LiveLM):
    """Tokenizes as lm-eval does, and cuts the start of a too long context."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return list(HFLM.loglikelihood(self, requests, disable_tqdm=True))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return list(HFLM.generate_until(self, requests, disable_tqdm=True))

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        ids, mask = HFLM.tok_batch_encode(self, strings, padding_side, left_truncate_len, **options)
        return ids, mask


def _score(logs: Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    """Summed log-probability of a continuation, the last rows of ``logs``, and whether each token is the likeliest."""
    tokens = torch.tensor(continuation, device=logs.device)
    scored = logs[-len(tokens) :]
    return float(scored.gather(1, tokens[:, None]).sum()), bool((scored.argmax(-1) == tokens).all())


class _Any(StoppingCriteria):
    """Stops generation as soon as one row has ended."""

    def __init__(self, ended: Callable[[Tensor], Tensor]):
        self.ended = ended

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self.ended(input_ids).any().expand(len(input_ids))
