"""Scores a model folder, or a hub model, on evaluations of this suite.

python -m scripts.evaluate runs/stages/<fingerprint>/model --tasks gsm8k casehold --data-folder DIR

A stage's model is shown prompts in the template that its manifest names, and its losses are of rows as long as there.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

from eval import available
from sfa import store
from sfa.data import TASKS
from sfa.data.template import Template


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*available(), *(f"{name}_loss" for name in TASKS)]
    parser.add_argument("model", help="folder in Hugging Face format, or a hub name")
    parser.add_argument("--tasks", nargs="+", required=True, choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--template", choices=get_args(Template), help="unless given: the stage's own, or else plain")
    parser.add_argument("--data-folder", type=Path, help="local copies of hub data sets")
    parser.add_argument("--limit", type=int, help="rows of each evaluation; all unless given")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, help="of rows for a loss; unless given: the stage's own, or else 1024")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", default="hf", choices=["hf", "vllm"], help="vllm: pip install vllm, CUDA only")
    parser.add_argument("--run-generated-code", action="store_true", help="lets humaneval run code, in a sandbox")
    parser.add_argument("--out", type=Path, help="also write the scores to this JSON file")
    given = parser.parse_args(arguments)
    if "humaneval" in given.tasks and not given.run_generated_code:
        parser.error("humaneval runs what the model writes, in a sandbox: add --run-generated-code")
    if given.backend == "vllm" and any(name.endswith("_loss") for name in given.tasks):
        parser.error("losses are computed with --backend hf only")
    template, seq_len = asked_of(Path(given.model))
    if template is None:
        about = "the model has no manifest of a trained stage; --template chooses another"
    elif given.template not in (None, template):
        about = f"the model was trained with {template}"
    else:
        about = "from the stage's manifest"
    given.template = given.template or template or "plain"
    given.seq_len = given.seq_len or seq_len or 1024
    print(f"template {given.template} ({about})", file=sys.stderr)
    scores = evaluate(given)
    for score in scores:
        spread = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        majority = f", majority class {score['majority']:.4f}" if "majority" in score else ""
        also = "".join(f", {metric} {value:.4f}" for metric, value in score.get("also", {}).items())
        print(
            f"{score['task']:<20} {score['metric']:<12} {score['value']:.4f}{spread} (n={score['n']}{majority}{also})"
        )
    if given.out:
        given.out.write_text(json.dumps(scores, indent=2) + "\n")
    return 0


def asked_of(model: Path) -> tuple[Template | None, int | None]:
    """The template and the longest row that the run of a stage's model asked for; ``None`` of any other model."""
    made = store.manifest(model.parent) if model.name == "model" else None
    return (made.get("template"), made.get("seq_len")) if made else (None, None)


def evaluate(given: argparse.Namespace) -> list[Any]:
    """The scores of the model that the command line names."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from eval.harness import Harness, Settings
    from sfa import models

    settings = Settings(
        given.template, given.seq_len, given.limit, given.batch_size, given.bf16, data_folder=given.data_folder
    )
    harness = Harness(given.tasks, [], settings)
    if given.backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        tokenizer = models.read_processor(given.model)
        return harness.score(VLLM(pretrained=str(given.model), batch_size="auto", load_format="safetensors"), tokenizer)
    model = models.read_model(given.model).eval()
    return harness(model.cuda() if torch.cuda.is_available() else model, models.read_processor(given.model))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
