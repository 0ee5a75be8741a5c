"""A task whose training responses a model has rewritten."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist, get_device

from sfa.data.answers import keeps_answer
from sfa.data.array_cache import built_once
from sfa.data.source import usable
from sfa.data.task import Row, Split, Task
from sfa.data.tokens import Encoder
from sfa.store import identity, verify_checksums
from sfa.values import Spec

GROUP = 32  # prompts of a batch
FILE = "rows.jsonl"


class Rewritten(Task):
    """A task with training rows from a file."""

    file: Path

    def rows(self, split: Split) -> Sequence[Row]:
        assert split == "train", "only training rows are rewritten"
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def data_spec(self) -> Spec:
        return {"name": self.name, "rewritten": identity(self.file)}


def rewritten(
    task: Task,
    folder: Path,
    template: str,
    limit: int | None,
    seed: int,
    write: Callable[[Sequence[Row]], list[str | None]],
    report: Callable[[str], None],
) -> Rewritten:
    """The task with rewritten responses, from ``folder`` if they are there already. All ranks call it.

    Args:
        task: the task; a row whose rewritten response lacks its final answer, see
            :func:`sfa.data.answers.keeps_answer`, stays as it is.
        folder: folder for the rows.
        template: the request to the model, with ``{prompt}`` and ``{response}``.
        limit: rows that are rewritten, drawn with ``seed``; ``None``: all.
        seed: seed of the draw.
        write: the model's responses to rows, ``None`` where it wrote none; called on all ranks.
        report: prints a line.
    """
    if not dist.all_gather_object(folder.is_dir())[0]:
        rows = list(usable(task.rows("train"), task.name))
        count = len(rows) if limit is None else min(limit, len(rows))
        places = sorted(random.Random(seed).sample(range(len(rows)), count))
        requests: list[Row] = [{**rows[i], "prompt": filled(template, rows[i])} for i in places]
        kept = 0
        for place, text in zip(places, write(requests), strict=True):
            if text is not None and keeps_answer(rows[place], text):
                rows[place] = {**rows[place], "response": text}
                kept += 1
        report(f"rewrote {kept:,} of {len(places):,} responses; the others lost their final answer, or their end")
        if dist.get_global_rank() == 0:
            with built_once(folder) as temporary:
                if temporary is not None:
                    (temporary / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
        dist.barrier()
    return Rewritten(name=task.name, file=verify_checksums(folder) / FILE)


def filled(template: str, row: Row) -> str:
    """The template with a row's prompt and response; other braces stay."""
    before, _, after = template.partition("{response}")
    return row["response"].join(part.replace("{prompt}", row["prompt"]) for part in (before, after))


@torch.no_grad()
def generate(
    model: Any, encoder: Encoder, rows: Sequence[Row], name: str, tokens: int, longest: int
) -> list[str | None]:
    """Greedy responses to the rows' prompts, of at most ``tokens`` tokens; ``None`` for one that does not end within
    them, or whose prompt leaves no room for them in ``longest`` tokens. All ranks call it and share the work, in the
    same batches whatever their number; the model is on its device, in evaluation mode."""
    prompts = encoder.encode_prompts(encoder.render_prompts(rows, name))
    texts: list[str | None] = [None] * len(rows)
    room = longest if encoder.seq2seq else longest - tokens
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    batches = list(_alike(fitting, prompts))
    found: list[tuple[int, str]] = []
    for batch in batches[dist.get_global_rank() :: dist.get_world_size()]:
        found += _written(model, encoder, {i: prompts[i] for i in batch}, tokens)
    for part in dist.all_gather_object(found):
        for i, text in part:
            texts[i] = text
    return texts


def _alike(indices: Sequence[int], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Batches of prompts of similar length."""
    ordered = sorted(indices, key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(ordered), GROUP):
        yield ordered[start : start + GROUP]


def _written(model: Any, encoder: Encoder, prompts: dict[int, list[int]], tokens: int) -> Iterator[tuple[int, str]]:
    """The responses that ended, with their prompts' keys."""
    device, tokenizer, end = get_device(None), encoder.tokenizer, encoder.end[-1]
    length = max(map(len, prompts.values()))
    ids = torch.full((len(prompts), length), int(tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for at, prompt in enumerate(prompts.values()):
        place = slice(0, len(prompt)) if encoder.seq2seq else slice(length - len(prompt), length)
        ids[at, place], mask[at, place] = torch.tensor(prompt), 1
    generated = model.generate(
        input_ids=device.tensor_to_device(ids),
        attention_mask=device.tensor_to_device(mask),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    ).tolist()
    for i, row in zip(prompts, generated, strict=True):
        response = row[1:] if encoder.seq2seq else row[length:]
        if end in response:
            yield i, str(tokenizer.decode(response[: response.index(end)], skip_special_tokens=True)).strip()
