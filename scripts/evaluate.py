"""Scores a model folder, or a hub model, on evaluations of this suite.

python -m scripts.evaluate runs/stages/<fingerprint>/model --tasks gsm8k casehold --data-folder DIR

A stage's model is shown prompts in the template that its manifest names, and its losses are of rows as long as there.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import get_args

from eval import available, owner
from scripts import files
from sfa.data.packing import LongRows
from sfa.data.template import DATE, Template
from sfa.errors import UsageError
from sfa.records import Manifest, Score
from sfa.runs import read_manifest, verify, verify_adapted
from sfa.terminal import command, quiet, start


@command("python -m scripts.evaluate")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = available()
    parser.add_argument("model", type=_model, help="folder in Hugging Face format, or a hub name")
    parser.add_argument("--tasks", nargs="+", required=True, choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--template", choices=get_args(Template), help="unless given: the stage's own, or else plain")
    parser.add_argument("--system", help="under chat, the system message")
    parser.add_argument("--date", type=date.fromisoformat, help=f"that a chat template is told it is; else {DATE}")
    parser.add_argument("--data-folder", type=files.path, help="local copies of hub data sets")
    parser.add_argument("--limit", type=int, help="rows of each evaluation; all unless given")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, help="of the longest row of which a loss is taken; else 1024")
    parser.add_argument("--long-rows", choices=get_args(LongRows), help="of longer ones; else drop")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", default="hf", choices=["hf", "vllm"], help="vllm: pip install vllm, CUDA only")
    parser.add_argument("--run-generated-code", action="store_true", help="lets humaneval run code, in a sandbox")
    parser.add_argument("--out", type=files.path, help="also write the scores to this JSON file")
    given = parser.parse_args(arguments)
    if "humaneval" in given.tasks and not given.run_generated_code:
        parser.error("humaneval runs what the model writes, in a sandbox: add --run-generated-code")
    for name in given.tasks:
        kind = owner(name)
        if kind is not None and given.backend not in kind.backends:
            parser.error(f"{name} is scored with --backend {' or '.join(kind.backends)} only")
    asked = asked_of(Path(given.model))
    if asked is not None:
        verify(Path(given.model).parent)
        verify_adapted(Path(given.model).parent)
    if asked is None:
        about = "the model has no manifest of a trained stage; --template chooses another"
    elif given.template not in (None, asked["template"]):
        about = f"the model was trained with {asked['template']}"
    else:
        about = "from the stage's manifest"
    if asked is not None and given.date is None and "date" in asked:
        given.date = date.fromisoformat(asked["date"])
    defaults = {"template": "plain", "system": None, "date": DATE, "seq_len": 1024, "long_rows": "drop"}
    for key, value in {**defaults, **(asked or {})}.items():
        if key in defaults and getattr(given, key) is None:
            setattr(given, key, value)
    scores = evaluate(given)
    print(f"template {given.template} ({about})", file=sys.stderr)
    for score in scores:
        spread = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        majority = f", majority class {score['majority']:.4f}" if "majority" in score else ""
        also = "".join(f", {metric} {value:.4f}" for metric, value in score.get("also", {}).items())
        value = f"{score['evaluation']:<20} {score['metric']:<12} {score['value']:.4f}{spread}"
        print(f"{value} (n={score['n']}{majority}{also})")
    if given.out:
        files.write(given.out, json.dumps(scores, indent=2) + "\n")
    return 0


def asked_of(model: Path) -> Manifest | None:
    """The manifest of a trained stage's model, which says how its run showed prompts and what it did with long rows;
    ``None`` of any other model."""
    made = read_manifest(model.parent) if model.name == "model" else None
    return made if made is not None and "template" in made else None


def _model(name: str) -> str:
    """A model's folder, or its name on the hub.

    Raises:
        argparse.ArgumentTypeError: it looks like a path, and there is no such folder.
    """
    folder = files.path(name)
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise argparse.ArgumentTypeError(f"must be a folder or a hub name, and {name} is neither")
    return str(folder)


def evaluate(given: argparse.Namespace) -> list[Score]:
    """The scores of the model that the command line names."""
    quiet()
    import torch
    from transformers import PreTrainedTokenizerBase

    from eval.evaluator import Evaluations
    from eval.kind import Settings
    from sfa.families import models
    from sfa.families.pretrained import model_errors

    settings = Settings(
        given.template,
        given.seq_len,
        given.limit,
        given.batch_size,
        given.bf16,
        data_folder=given.data_folder,
        system=given.system,
        date=given.date,
        long_rows=given.long_rows,
    )
    evaluations = Evaluations(given.tasks, [], settings)
    with model_errors(given.model):
        processor = models.read_processor(given.model)
    if not isinstance(processor, PreTrainedTokenizerBase):
        raise UsageError(f"{given.model} is an image classifier, and these evaluations are of text")
    if given.backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        bos = False if given.template == "chat" else None  # a chat template writes it, or there is none
        lm = VLLM(pretrained=given.model, batch_size="auto", add_bos_token=bos, load_format="safetensors")
        return evaluations.drive(lm, processor)
    with model_errors(given.model):
        model = models.read_model(given.model).eval()
    return evaluations(model.cuda() if torch.cuda.is_available() else model, processor)


if __name__ == "__main__":
    start(main)
