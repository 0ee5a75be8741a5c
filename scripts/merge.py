"""Merges model folders of one architecture into a new one, in Hugging Face format.

python -m scripts.merge average A B --beta 0.5 --out MERGED                     0.5·A + 0.5·B: WiSE-FT, SFA at p=1
python -m scripts.merge soup A B C --out MERGED
python -m scripts.merge task_arithmetic A B --base BASE --weights 0.5 0.5 --out MERGED
python -m scripts.merge ties A B --base BASE --density 0.2 --scale 1 --out MERGED
python -m scripts.merge fisher A B --fishers FA FB --out MERGED                 folders shaped like the models

The models must differ in weights alone: other settings, vocabularies or image sizes end in an error that names them.
Of adapters, the factors are averaged. Memory: the largest tensor of each model, float32, beside what torch takes.
"""

import argparse
import shlex
import sys

from scripts import files
from sfa.terminal import command, start

CARD = """---
tags: [merge]
---
# {title}

Made by `{command}`.

| model | weight |
|---|---|
{rows}
{notes}"""


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["average", "soup", "task_arithmetic", "ties", "fisher"])
    parser.add_argument("models", nargs="+", type=files.path)
    parser.add_argument("--out", type=files.path, required=True)
    parser.add_argument("--base", type=files.path, help="that all were trained from, for task_arithmetic and ties")
    parser.add_argument("--weights", nargs="+", type=float, help="one a model; 1/n each unless given")
    parser.add_argument("--beta", type=float, default=0.5, help="of average, the weight of the first model")
    parser.add_argument("--density", type=float, default=0.2, help="of ties, the share of a task vector that is kept")
    parser.add_argument("--scale", type=float, default=1.0, help="λ of ties")
    parser.add_argument("--fishers", nargs="+", type=files.path, help="of fisher, one folder a model")
    parser.add_argument("--normalize", action="store_true", help="of fisher: each by its norm, and at least 1e-6")
    given = parser.parse_args(arguments)
    weights = given.weights or [1 / len(given.models)] * len(given.models)
    wrong = _misuse(given, weights)
    if wrong:
        parser.error(wrong)
    from sfa import merging

    try:
        if given.method == "average":
            weights = [given.beta, 1 - given.beta]
            notes = merging.average(given.models[0], given.models[1], given.beta, given.out)
        elif given.method == "soup":
            notes = merging.soup(given.models, given.out)
        elif given.method == "task_arithmetic":
            notes = merging.task_arithmetic(given.base, given.models, weights, given.out)
        elif given.method == "ties":
            notes = merging.ties(given.base, given.models, weights, given.out, given.density, given.scale)
        else:
            notes = merging.fisher(given.models, given.fishers, weights, given.out, given.normalize)
    except (ValueError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    rows = "\n".join(f"| {model} | {weight:g} |" for model, weight in zip(given.models, weights, strict=True))
    rows += f"\n| {given.base} | base |" if given.base else ""
    written = shlex.join(["python", "-m", "scripts.merge", *arguments])
    told = "".join(f"\n{note}\n" for note in notes)
    card = CARD.format(title=f"{given.method} of models", command=written, rows=rows, notes=told)
    files.write(given.out / "README.md", card)
    print("\n".join([*notes, str(given.out)]))
    return 0


def _misuse(given: argparse.Namespace, weights: list[float]) -> str | None:
    """What is wrong with the command itself."""
    takes = {
        "base": ("task_arithmetic", "ties"),
        "weights": ("task_arithmetic", "ties", "fisher"),
        "fishers": ("fisher",),
        "normalize": ("fisher",),
    }
    for option, methods in takes.items():
        if getattr(given, option) and given.method not in methods:
            return f"--{option} is for {' and '.join(methods)}"
    if given.method in takes["base"] and given.base is None:
        return f"{given.method} needs --base"
    if given.method == "average" and len(given.models) != 2:
        return "average takes two models"
    if given.method == "fisher" and len(given.fishers or []) != len(given.models):
        return "fisher needs as many --fishers as models"
    if len(weights) != len(given.models):
        return f"{len(given.models)} models need as many --weights, not {len(weights)}"
    folders = [*given.models, *([given.base] if given.base else [])]
    for folder in (*folders, *(given.fishers or [])):
        if not list(folder.glob("*.safetensors*")):
            return f"{folder} holds no safetensors files"
    for folder in given.models:
        if sum(folder.resolve() == other.resolve() for other in folders) > 1:
            return f"{folder} is given twice"
    return None


if __name__ == "__main__":
    start(main)
