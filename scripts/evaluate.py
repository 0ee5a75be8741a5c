"""Scores a model folder, or a hub model, on evaluations of this suite.

sfa evaluate runs/stages/<fingerprint>/model --tasks gsm8k casehold --data-folder DIR

The model of a trained stage is evaluated with the template and the sequence length of its manifest.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import get_args

from eval import available, owner
from scripts import files
from sfa.data import runs_generated_code
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
    parser.add_argument("--template", choices=get_args(Template), help="default: the stage's own, or plain")
    parser.add_argument("--system", help="system message, with --template chat")
    parser.add_argument("--date", type=date.fromisoformat, help=f"today's date for chat templates; default: {DATE}")
    parser.add_argument("--data-folder", type=files.path, help="local copies of hub data sets")
    parser.add_argument("--limit", type=int, help="rows per evaluation; default: all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, help="of the longest row that is scored by loss; default: 1024")
    parser.add_argument("--long-rows", choices=get_args(LongRows), help="what to do with longer rows; default: drop")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", default="hf", choices=["hf", "vllm"], help="vllm: pip install vllm, CUDA only")
    running_code = list(filter(runs_generated_code, known))
    allowing = f"allow {', '.join(running_code)} to run code, in a sandbox"
    parser.add_argument("--run-generated-code", action="store_true", help=allowing)
    parser.add_argument("--out", type=files.path, help="also write the scores to this JSON file")
    args = parser.parse_args(arguments)
    for name in args.tasks:
        if name in running_code and not args.run_generated_code:
            parser.error(f"{name} runs what the model writes, in a sandbox: add --run-generated-code")
        kind = owner(name)
        if kind is not None and args.backend not in kind.backends:
            parser.error(f"{name} is scored with --backend {' or '.join(kind.backends)} only")
    manifest = stage_manifest(Path(args.model))
    if manifest is not None:
        verify(Path(args.model).parent)
        verify_adapted(Path(args.model).parent)
    if manifest is None:
        source = "the model is not of a trained stage; use --template to change it"
    elif args.template not in (None, manifest["template"]):
        source = f"the model was trained with {manifest['template']}"
    else:
        source = "from the stage's manifest"
    if manifest is not None and args.date is None and "date" in manifest:
        args.date = date.fromisoformat(manifest["date"])
    defaults = {"template": "plain", "system": None, "date": DATE, "seq_len": 1024, "long_rows": "drop"}
    for key, value in {**defaults, **(manifest or {})}.items():
        if key in defaults and getattr(args, key) is None:
            setattr(args, key, value)
    scores = evaluate(args)
    print(f"template {args.template} ({source})", file=sys.stderr)
    for score in scores:
        stderr = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        majority = f", majority class {score['majority']:.4f}" if "majority" in score else ""
        also = "".join(f", {metric} {value:.4f}" for metric, value in score.get("also", {}).items())
        value = f"{score['evaluation']:<20} {score['metric']:<12} {score['value']:.4f}{stderr}"
        print(f"{value} (n={score['n']}{majority}{also})")
    if args.out:
        files.write(args.out, json.dumps(scores, indent=2) + "\n")
    return 0


def stage_manifest(model: Path) -> Manifest | None:
    """The manifest of a trained stage's model, with the template and the handling of long rows; ``None`` for any other
    model."""
    manifest = read_manifest(model.parent) if model.name == "model" else None
    return manifest if manifest is not None and "template" in manifest else None


def _model(name: str) -> str:
    """A model's folder, or its name on the hub.

    Raises:
        argparse.ArgumentTypeError: it looks like a path, but the folder does not exist.
    """
    folder = files.path(name)
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise argparse.ArgumentTypeError(f"must be a folder or a hub name, and {name} is neither")
    return str(folder)


def evaluate(args: argparse.Namespace) -> list[Score]:
    """Scores the model named on the command line."""
    quiet()
    import torch
    from transformers import PreTrainedTokenizerBase

    from eval.evaluator import Evaluations
    from eval.kind import Settings
    from sfa.models import stored
    from sfa.models.pretrained import model_errors

    settings = Settings(
        args.template,
        args.seq_len,
        args.limit,
        args.batch_size,
        args.bf16,
        data_folder=args.data_folder,
        system=args.system,
        date=args.date,
        long_rows=args.long_rows,
    )
    evaluations = Evaluations(args.tasks, [], settings)
    with model_errors(args.model):
        processor = stored.read_processor(args.model)
    if not isinstance(processor, PreTrainedTokenizerBase):
        raise UsageError(f"{args.model} is an image classifier, and these evaluations are of text")
    if args.backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        bos = False if args.template == "chat" else None  # a chat template adds it if there is one
        lm = VLLM(pretrained=args.model, batch_size="auto", add_bos_token=bos, load_format="safetensors")
        return evaluations.drive(lm, processor)
    with model_errors(args.model):
        model = stored.read_model(args.model).eval()
    return evaluations(model.cuda() if torch.cuda.is_available() else model, processor)


if __name__ == "__main__":
    start(main)
