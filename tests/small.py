"""The quickstart, made small: its model, its vocabulary, and one excerpt of each licence."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "yamls" / "quickstart.yaml")
LICENCES = "{name: licences, excerpts: 1}"
SMALL = [
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "model.tokenizer={train_on: [arithmetic, returns], vocab_size: 512}",
    f"tasks=[arithmetic, {LICENCES}, returns]",
    "eval.interval=null",
    "loggers={}",
]
