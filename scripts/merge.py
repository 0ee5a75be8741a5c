"""Merges model folders of one architecture into a new one, in Hugging Face format.

python -m scripts.merge average A B --beta 0.5 --out MERGED                     0.5·A + 0.5·B: WiSE-FT, SFA at p=1
python -m scripts.merge soup A B C --out MERGED
python -m scripts.merge task_arithmetic A B --base BASE --weights 0.5 0.5 --out MERGED
python -m scripts.merge ties A B --base BASE --density 0.2 --scale 1 --out MERGED
python -m scripts.merge fisher A B --fishers FA FB --out MERGED                 folders shaped like the models

Memory: the largest tensor of each model, float32, beside what torch itself takes.
"""

import argparse
import math
import shlex
import sys

from scripts import kept
from sfa.terminal import command, start

CARD = """---
tags: [merge]
---
# {title}

Made by `{command}`.

| model | weight |
|---|---|
{rows}
"""


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["average", "soup", "task_arithmetic", "ties", "fisher"])
    parser.add_argument("models", nargs="+", type=kept.path)
    parser.add_argument("--out", type=kept.path, required=True)
    parser.add_argument("--base", type=kept.path, help="that all were trained from, for task_arithmetic and ties")
    parser.add_argument("--weights", nargs="+", type=float, help="one a model; 1/n each unless given")
    parser.add_argument("--beta", type=float, default=0.5, help="of average, the weight of the first model")
    parser.add_argument("--density", type=float, default=0.2, help="of ties, the share of a task vector that is kept")
    parser.add_argument("--scale", type=float, default=1.0, help="λ of ties")
    parser.add_argument("--fishers", nargs="+", type=kept.path, help="of fisher, one folder a model")
    given = parser.parse_args(arguments)
    weights = given.weights or [1 / len(given.models)] * len(given.models)
    if given.method in ("task_arithmetic", "ties") and given.base is None:
        parser.error(f"{given.method} needs --base")
    if given.method == "average" and len(given.models) != 2:
        parser.error("average takes two models")
    if given.method == "fisher" and len(given.fishers or []) != len(given.models):
        parser.error("fisher needs as many --fishers as models")
    if not all(map(math.isfinite, (*weights, given.beta, given.density, given.scale))):
        parser.error("--weights, --beta, --density and --scale must be finite")
    if not 0 <= given.beta <= 1 or not 0 < given.density <= 1:
        parser.error("--beta must be from 0 to 1, --density above 0 and at most 1")
    if len(weights) != len(given.models):
        parser.error(f"{len(given.models)} models need as many --weights, not {len(weights)}")
    for folder in (*given.models, *([given.base] if given.base else []), *(given.fishers or [])):
        if not list(folder.glob("*.safetensors")):
            parser.error(f"{folder} holds no safetensors files")
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty")
    from safetensors import SafetensorError

    from sfa import merging

    try:
        if given.method == "average":
            weights = [given.beta, 1 - given.beta]
            merging.average(given.models[0], given.models[1], given.beta, given.out)
        elif given.method == "soup":
            weights = [1 / len(given.models)] * len(given.models)
            merging.soup(given.models, given.out)
        elif given.method == "task_arithmetic":
            merging.task_arithmetic(given.base, given.models, weights, given.out)
        elif given.method == "ties":
            merging.ties(given.base, given.models, weights, given.out, given.density, given.scale)
        else:
            merging.fisher(given.models, given.fishers, weights, given.out)
    except (ValueError, SafetensorError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = "\n".join(f"| {model} | {weight:g} |" for model, weight in zip(given.models, weights, strict=True))
    rows += f"\n| {given.base} | base |" if given.base else ""
    written = shlex.join(["python", "-m", "scripts.merge", *arguments])
    card = CARD.format(title=f"{given.method} of models", command=written, rows=rows)
    kept.write(given.out / "README.md", card)
    print(given.out)
    return 0


if __name__ == "__main__":
    start(main)
