"""A stream of small text files and a tiny model, for tests through the command line."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests import zoo

TRAIN = {"max_duration": "4ba", "global_batch_size": 2, "seq_len": 48, "lr": 1e-2, "schedule": "constant"}


def model(folder: Path, name: str = "tiny") -> str:
    """A folder with a pretrained model of a few thousand parameters."""
    out = folder / name
    if not out.exists():
        torch.manual_seed(0)
        tokenizer = zoo.tokenizer("byte-level")
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(out)
        tokenizer.save_pretrained(out)
    return str(out)


def data(folder: Path, *names: str) -> None:
    """``<name>.jsonl`` of 40 questions and answers each."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = [{"question": f"{name} {i}?", "answer": f"{len(name)} and {i % 3}"} for i in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def task(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    source = str(folder / f"{name}.jsonl")
    return {"name": name, "source": source, "prompt": "{question}", "response": "{answer}", **options}


def config(folder: Path, *names: str, **changes: Any) -> str:
    """Path of a config that trains on these files of ``folder`` with SFA; a change to ``None`` removes the key."""
    content = {
        "name": "mine",
        **({} if "model" in changes else {"model": {"name": model(folder)}}),
        "tasks": [task(folder, name) for name in names],
        "method": "sfa",
        "sfa": {"p": 0.5, "beta": 0.5},
        "train": TRAIN,
        "eval": {"interval": None},
        "loggers": {},
        "parallelism": "none",
        "save_folder": str(folder / "runs"),
        **changes,
    }
    file = folder / "stream.yaml"
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return str(file)


def results(folder: Path, name: str = "mine") -> dict[str, Any]:
    return dict(json.loads((folder / "runs" / name / "results.json").read_text()))
