"""Scores a model folder, or a hub model, on evaluations of this suite.

python -m scripts.evaluate runs/stages/<fingerprint>/model --tasks gsm8k casehold --data-folder DIR
"""

import argparse
import json
from typing import Any

from eval import available
from scripts import kept
from sfa.data import TASKS
from sfa.errors import UsageError
from sfa.terminal import command, quiet, start


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*available(), *(f"{name}_loss" for name in TASKS)]
    parser.add_argument("model", type=_model, help="folder in Hugging Face format, or a hub name")
    parser.add_argument("--tasks", nargs="+", required=True, choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--template", default="plain", choices=["plain", "instruction", "chat"])
    parser.add_argument("--data-folder", type=kept.path, help="local copies of hub data sets")
    parser.add_argument("--limit", type=int, help="rows of each evaluation; all unless given")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=1024, help="to which rows are cut for a loss")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", default="hf", choices=["hf", "vllm"], help="vllm: pip install vllm, CUDA only")
    parser.add_argument("--run-generated-code", action="store_true", help="lets humaneval run code, in a sandbox")
    parser.add_argument("--out", type=kept.path, help="also write the scores to this JSON file")
    given = parser.parse_args(arguments)
    if "humaneval" in given.tasks and not given.run_generated_code:
        parser.error("humaneval runs what the model writes, in a sandbox: add --run-generated-code")
    if given.backend == "vllm" and any(name.endswith("_loss") for name in given.tasks):
        parser.error("losses are computed with --backend hf only")
    scores = evaluate(given)
    for score in scores:
        spread = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        majority = f", majority class {score['majority']:.4f}" if "majority" in score else ""
        print(f"{score['task']:<20} {score['metric']:<12} {score['value']:.4f}{spread} (n={score['n']}{majority})")
    if given.out:
        kept.write(given.out, json.dumps(scores, indent=2) + "\n")
    return 0


def _model(name: str) -> str:
    """A model's folder, or its name on the hub.

    Raises:
        argparse.ArgumentTypeError: it looks like a path, and there is no such folder.
    """
    folder = kept.path(name)
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise argparse.ArgumentTypeError(f"must be a folder or a hub name, and {name} is neither")
    return str(folder)


def evaluate(given: argparse.Namespace) -> list[Any]:
    """The scores of the model that the command line names."""
    quiet()
    import torch
    from transformers import PreTrainedTokenizerBase

    from eval.harness import Harness, Settings
    from sfa import models

    settings = Settings(
        given.template, given.seq_len, given.limit, given.batch_size, given.bf16, data_folder=given.data_folder
    )
    harness = Harness(given.tasks, [], settings)
    with models.told(given.model):
        processor = models.read_processor(given.model)
    if not isinstance(processor, PreTrainedTokenizerBase):
        raise UsageError(f"{given.model} is an image classifier, and these evaluations are of text")
    if given.backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        return harness.score(VLLM(pretrained=given.model, batch_size="auto"), processor)
    with models.told(given.model):
        model = models.read_model(given.model).eval()
    return harness(model.cuda() if torch.cuda.is_available() else model, processor)


if __name__ == "__main__":
    start(main)
