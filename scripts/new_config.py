"""Writes the config of a new stream, with comments: your files as tasks, and a model.

sfa new my-stream first.jsonl second.jsonl --model owner/name
sfa new my-stream                                       with placeholders to fill in

It writes my-stream.yaml, for sfa run my-stream.yaml.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from pydantic import TypeAdapter, ValidationError

from scripts import files
from sfa.data import TASKS, FileName
from sfa.data.conversations import COLUMNS
from sfa.data.folder import split_files
from sfa.data.source import columns, find
from sfa.errors import SFAError, UsageError
from sfa.terminal import command, start, telling

PAIRS = [  # usual names of a prompt's and a response's column
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("text", "label"),
]
SEQ_LEN, UNKNOWN_SEQ_LEN = 1024, 512  # the most that it writes; what also models with few positions mostly have
PLACEHOLDERS = ("data/first.jsonl", "data/second.jsonl")
CONFIG = """\
# {command}: trains the tasks in order, and scores every task after each.
# {command} --dry-run: what it would do. Every key: docs/configs.md, the methods: docs/methods.md.
name: {name}  # names the folder of the results, runs/{name}
seed: 17

model:
  name: {model}  # a hub name or a folder
  # base: owner/base  # if the model was tuned before: what it was tuned from. The first task then keeps that, too.
  template: {template}  # how a prompt is written: plain, instruction, or chat, the tokenizer's own
  # lora: {{rank: 16}}  # trains adapters, not all weights

tasks:  # in order; a third one can be added later, and only that is trained
{tasks}
  # a class label: {{name: topics, source: news.csv, label: topic, choices: [World, Sports]}}
  # conversations: {{name: chats, source: chats.jsonl}}, with the column messages and model.template: chat
  # pictures: {{name: pets, source: pets}}, a folder of train/<class>/*.jpg, and an image classifier as the model

method: sfa  # the others: docs/methods.md; method=… on the command line compares them
sfa: {{p: 0.25, beta: 0.5}}  # merges each quarter of a task; the weight of the model before it

train:
  max_duration: 1ep  # of each task; 200ba for 200 steps
  global_batch_size: 16  # sequences per step
  seq_len: {seq_len}  # tokens per sequence, {bound}; longer rows are left out and counted
  lr: 2.0e-5

eval: {{interval: 0.25dur}}  # scores at each quarter of a task; null: only after it
parallelism: ddp  # fsdp2 to shard the weights over the ranks: {command} --ranks 8
"""


def config(name: str, sources: Sequence[str], model: str) -> str:
    """The text of a config, with a task for each source.

    Raises:
        UsageError: two sources would have the same task's name.
    """
    names = [_name(source) for source in sources]
    if len({*names}) < len(names):
        raise UsageError(f"{' and '.join(sources)} would be tasks of the same name: rename one of them")
    found = [_columns(source) for source in sources]
    chat = any({*COLUMNS} & {*named} for named in found)
    tasks = [_task(*task) for task in zip(names, sources, found, strict=True)]
    with telling("reading the model's configuration"):
        seq_len, bound = _sequence(model)
    return CONFIG.format(
        name=name,
        command=f"sfa run {name}.yaml",
        model=model,
        template="chat" if chat else "plain",
        tasks="\n".join(tasks),
        seq_len=seq_len,
        bound=bound,
    )


def _sequence(model: str) -> tuple[int, str]:
    """Tokens per sequence that a model takes, and how many it may be. Reads the configuration of a folder, or of a
    downloaded model; what is wrong with it, a run reports."""
    from sfa.families.text import position_count  # these take seconds to import
    from sfa.models.configurations import read_configuration
    from sfa.models.settings import Model

    unknown = (UNKNOWN_SEQ_LEN, "at most the model's positions")
    downloaded = None if Path(model).is_dir() else try_to_load_from_cache(model, "config.json")
    if not Path(model).is_dir() and not isinstance(downloaded, str):
        return unknown
    folder = model if downloaded is None else str(Path(str(downloaded)).parent)
    try:
        positions = position_count(read_configuration(Model(name=folder), {}))
    except (SFAError, OSError, ValueError):
        return unknown
    if positions is None:
        return SEQ_LEN, "as many as memory allows"
    return min(SEQ_LEN, positions), f"at most the model's {positions:,}"


def _name(source: str) -> str:
    """A task's name from its source: the file's or folder's, in letters, digits, - and _, and not that of a registered
    task."""
    stem = Path(source.rstrip("*")).stem or Path(source).parent.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "task"
    return f"my-{name}" if name in TASKS else name


def _columns(source: str) -> list[str]:
    """The columns of a local source; empty for a placeholder, a hub name or a folder of pictures."""
    if source in PLACEHOLDERS and not Path(source).exists():
        return []
    found = find(source, None)
    if found.path is None or not split_files(found.path):
        return []
    return columns(found, "train")


def _task(name: str, source: str, named: Sequence[str]) -> str:
    lines = [f"  - name: {name}", f"    source: {json.dumps(source, ensure_ascii=False)}"]
    if named and not {*COLUMNS} & {*named}:
        prompt, response = next((pair for pair in PAIRS if {*pair} <= {*named}), (named[0], named[-1]))
        lines[1] += f"  # its columns: {', '.join(named)}"
        lines += [f'    prompt: "{{{prompt}}}"  # templates over the columns', f'    response: "{{{response}}}"']
    elif source in PLACEHOLDERS:
        lines[1] += "  # a file, a folder, a pattern like data/*.parquet, or a hub name"
        lines += ['    prompt: "{question}"  # templates over the columns', '    response: "{answer}"']
    return "\n".join(lines)


@command("sfa new")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the stream; the file is NAME.yaml")
    parser.add_argument("sources", nargs="*", help="files, folders or hub names, in the order of the stream")
    parser.add_argument("--model", default="EleutherAI/pythia-160m", help="hub name or folder")
    args = parser.parse_args(arguments)
    name = args.name.removesuffix(".yaml")
    try:
        TypeAdapter(FileName).validate_python(name)
    except ValidationError:
        parser.error(f"the name names a file and a folder, so it cannot be {name[:80]!r}")
    out = Path(f"{name}.yaml")
    if out.exists():
        raise UsageError(f"{out} exists: choose another name, or remove it")
    print(files.write(out, config(name, args.sources or PLACEHOLDERS, args.model)))
    print(f"next: sfa run {out} --dry-run")
    return 0


if __name__ == "__main__":
    start(main)
