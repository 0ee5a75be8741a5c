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
from typing import Any, get_origin

from pydantic import ValidationError

from scripts import files
from scripts.cells import markdown
from sfa.errors import UsageError
from sfa.methods import METHODS, Method
from sfa.methods.base import Sources
from sfa.terminal import command, start

CARD = """---
tags: [merge]
---
# {title}

Made by `{command}`.

{table}
{notes}"""
MERGES = {kind.merge_name: kind for kind in METHODS.values() if kind.merge_name}
OF_STREAMS = {"labels", "examples"}  # fields that say how a stage's Fisher information is taken, which is given here


@command("python -m scripts.merge")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 the models cannot be merged, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(MERGES))
    parser.add_argument("models", nargs="+", type=files.path)
    parser.add_argument("--out", type=files.path, required=True)
    parser.add_argument("--base", type=files.path, help=f"that all were trained from, for {_users('base')}")
    parser.add_argument("--fishers", nargs="+", type=files.path, help=f"for {_users('fishers')}, one folder a model")
    parser.add_argument("--seed", type=int, help=f"of what is drawn, for {_users('seed')}; 0 unless given")
    for name, field in _options().items():
        kind: dict[str, Any] = {"type": float}
        if field.annotation is bool:
            kind = {"action": "store_true", "default": None}
        elif get_origin(field.annotation) is not None:
            kind = {"type": float, "nargs": "+"}
        parser.add_argument(f"--{name}", help=f"for {_users(name)}: {field.description}", **kind)
    given = parser.parse_args(arguments)
    wrong = _misuse(given)
    if wrong:
        parser.error(wrong)
    settings = {name: getattr(given, name) for name in _options() if getattr(given, name) is not None}
    try:
        method = MERGES[given.method](**settings)
    except ValidationError as error:
        raise UsageError("\n".join(_wrong_values(error))) from error
    notes = method.merge(Sources(given.models, given.base, given.fishers or (), given.seed or 0), given.out)
    rows = [[str(model), share] for model, share in zip(given.models, _shares(method, given), strict=True)]
    rows += [[str(given.base), "base"]] if given.base else []
    written = shlex.join(["python", "-m", "scripts.merge", *arguments])
    told = "".join(f"\n{note}\n" for note in notes)
    table = markdown([["model", "weight"], *rows])
    card = CARD.format(title=f"{given.method} of models", command=written, table=table, notes=told)
    files.write(given.out / "README.md", card)
    print("\n".join([*notes, str(given.out)]))
    return 0


def _wrong_values(error: ValidationError) -> list[str]:
    found = [(".".join(map(str, e["loc"])), e["msg"], e["input"]) for e in error.errors()]
    return [f"--{option}: {text.replace('Input should be', 'must be')}, not {value}" for option, text, value in found]


def _options() -> dict[str, Any]:
    """The fields of all merges, by name; those of the same name mean the same."""
    return {
        name: field for kind in MERGES.values() for name, field in kind.model_fields.items() if name not in OF_STREAMS
    }


def _users(option: str) -> str:
    """The merges that take an option."""
    takes = {
        "base": lambda kind: kind.merges_from,
        "fishers": lambda kind: kind().fisher_settings() is not None,
        "seed": lambda kind: kind.draws,
    }
    uses = takes.get(option, lambda kind: option in kind.model_fields)
    return " and ".join(name for name, kind in sorted(MERGES.items()) if uses(kind))


def _shares(method: Method, given: argparse.Namespace) -> list[str]:
    """What a model weighs, as the card says it."""
    count = len(given.models)
    weights = given.weights or [1 / count] * count
    beta = getattr(method, "beta", None)
    return [f"{weight:g}" for weight in ([beta, 1 - beta] if beta is not None else weights)]


def _misuse(given: argparse.Namespace) -> str | None:
    """What is wrong with the command itself."""
    kind = MERGES[given.method]
    for option in ("base", "fishers", "seed", *_options()):
        if getattr(given, option) is not None and given.method not in _users(option).split(" and "):
            return f"--{option} is for {_users(option)}"
    if kind.merges_from and given.base is None:
        return f"{given.method} needs --base"
    if kind.merge_count is not None and len(given.models) != kind.merge_count:
        return f"{given.method} takes {kind.merge_count} models"
    if kind().fisher_settings() is not None and len(given.fishers or []) != len(given.models):
        return f"{given.method} needs as many --fishers as models"
    if given.weights is not None and len(given.weights) != len(given.models):
        return f"{len(given.models)} models need as many --weights, not {len(given.weights)}"
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
