"""What a dry run says of a stream's own data: columns, splits, rows, and the first example as the model sees it."""

from collections.abc import Sequence
from typing import Any

from sfa.config.schema import Config, Train
from sfa.data import ImageTask, Row, Task
from sfa.data.overlap import overlap
from sfa.data.packing import IGNORED, Example, encode, none_fits
from sfa.data.source import columns, splits
from sfa.data.sourced_task import SourcedTask
from sfa.data.tokens import Encoder
from sfa.errors import SFAError, one_line
from sfa.stages.reachable import is_there, unreachable_models

SHOWN, SAMPLE = 400, 200  # characters of an example; rows whose tokens are counted
LEARNED = ("«", "»")  # around what is learned
UNLIMITED = 2**31  # tokens


def preview(config: Config, errors: list[str]) -> list[str]:
    """Lines about each task whose data are in files or can be reached.

    Args:
        config: a run's config.
        errors: is extended by a line for each task whose data cannot be used.
    """
    lines: list[str] = []
    encoder: Encoder | None = None
    for task in config.tasks:
        if not isinstance(task, SourcedTask) or not is_there(task.located()):
            continue
        try:
            lines.append(f"{task.name}: {_rows(task)}")
            if isinstance(task, ImageTask):
                continue
            repeated = None if task.evaluate_only else overlap(task.rows("train"), task.rows("test"), task.name)
            lines += [] if repeated is None else [repeated]
            encoder = encoder or _encoder(config)
            lines += _example(task, encoder, config.train_of(task)) if encoder is not None else []
        except (SFAError, ValueError, OSError) as error:
            errors.append(f"{task.name}: {one_line(error).removeprefix(f'{task.name}: ')}")
    return lines


def marked(example: Example, tokenizer: Any) -> str:
    """An example's text with its learned parts between marks, and line breaks written as ⏎."""
    parts, ids, learned = [], list[int](), False
    for i, label in [*zip(example["input_ids"], example["labels"], strict=True), (None, None)]:
        if i is None or (label != IGNORED) != learned:
            text = tokenizer.decode(ids) if ids else ""
            parts.append(f"{LEARNED[0]}{text}{LEARNED[1]}" if learned else text)
            ids, learned = [], not learned
        if i is not None:
            ids.append(i)
    return "".join(parts).replace("\n", "⏎")


def _rows(task: SourcedTask) -> str:
    """The numbers of rows of a task, how the held-out ones were drawn, and its columns and splits."""
    source = task.located()
    test = getattr(task, "test_split", None) or task.held_out_split()
    drawn = f"the split {test}" if test is not None else "drawn by a hash of their content, as there is no test split"
    counts = f"{len(task.rows('train')):,} rows to train on, {len(task.rows('test')):,} held out, {drawn}"
    named = ", ".join(columns(source, str(getattr(task, "train_split", "train"))))
    return f"{counts}; columns {named}; splits {', '.join(splits(source))}"


def _example(task: Task, encoder: Encoder, train: Train) -> list[str]:
    """The first row with its learned part marked, and how many tokens rows have.

    Raises:
        SourceError: all rows are longer than a sequence, and would be left out.
    """
    seq_len = train.seq_len
    all_rows: Sequence[Row] = task.rows("train")
    rows = all_rows[:SAMPLE]
    if encoder.seq2seq:
        pairs = encoder.encode_rows(rows, task.name)
        lengths = [len(prompt) + len(response) + len(encoder.end) for prompt, response in pairs]
        prompt, response = map(encoder.tokenizer.decode, pairs[0])
        text = f"{prompt} → {LEARNED[0]}{response}{LEARNED[1]}"
    else:
        examples, _ = encode(rows, encoder, UNLIMITED, "drop", task.name)
        lengths = [len(example["input_ids"]) for example in examples]
        text = marked(examples[0], encoder.tokenizer)
    shown = text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    mean, longer = sum(lengths) / len(lengths), sum(length > seq_len for length in lengths)
    if longer == len(all_rows) and train.long_rows == "drop" and not task.evaluate_only:
        raise none_fits(task.name, seq_len)
    over = f"; {longer} of the first {len(lengths)} are longer than train.seq_len: {seq_len}" if longer else ""
    counts = f"{mean:.0f} tokens an example, about {mean * len(all_rows):,.0f} in all{over}"
    return [f"     {shown}", f"     learned: what is between {LEARNED[0]} and {LEARNED[1]}; {counts}"]


def _encoder(config: Config) -> Encoder | None:
    """The encoder of the config's pretrained model; ``None`` if it has no tokenizer yet or cannot be reached."""
    from transformers import AutoConfig

    from sfa.families import family_of
    from sfa.models.configurations import NO_CODE
    from sfa.models.stored import read_processor

    name = config.model.name
    if name is None or unreachable_models(config):
        return None
    configuration = AutoConfig.from_pretrained(name, revision=config.model.revision, **NO_CODE)
    seq2seq = bool(getattr(family_of(configuration), "seq2seq", False))
    return Encoder(read_processor(name), config.model.layout, seq2seq)
