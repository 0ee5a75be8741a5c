"""Merges model folders of one architecture into a new one, in Hugging Face format.

sfa merge average A B --beta 0.5 --out MERGED                     0.5·A + 0.5·B: WiSE-FT, SFA at p=1
sfa merge soup A B C --out MERGED
sfa merge task_arithmetic A B --base BASE --weights 0.5 0.5 --out MERGED
sfa merge ties A B --base BASE --density 0.2 --scale 1 --out MERGED
sfa merge magmax A B --base BASE --scale 0.5 --out MERGED         models of sequential training, in order
sfa merge fisher A B --fishers FA FB --out MERGED                 folders shaped like the models

The models may differ only in their weights; different settings, vocabularies or image sizes are an error that names
them. Of adapters, the factors are averaged. Memory: the largest tensor of each model in float32, in addition to torch's
own.
"""

import argparse
import shlex
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from scripts import card, files
from scripts.cells import markdown
from sfa.errors import UsageError
from sfa.methods import METHODS, Method
from sfa.methods.base import Sources
from sfa.runs import CARD
from sfa.terminal import command, start

MERGES = {kind.merge_name: kind for kind in METHODS.values() if kind.merge_name}
STREAM_FIELDS = {"labels", "examples"}  # fields about computing Fisher information in a stream; here it is an input


@command("python -m scripts.merge")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 the models cannot be merged, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(MERGES))
    parser.add_argument("models", nargs="+", type=files.path)
    parser.add_argument("--out", type=files.path, required=True)
    parser.add_argument("--base", type=files.path, help=f"model that all were trained from, for {_users('base')}")
    parser.add_argument("--fishers", nargs="+", type=files.path, help=f"for {_users('fishers')}, one folder per model")
    parser.add_argument("--seed", type=int, help=f"of random choices, for {_users('seed')}; default: 0")
    for name, field in _options().items():
        kind: dict[str, Any] = {"type": float}
        if field.annotation is bool:
            kind = {"action": "store_true", "default": None}
        elif get_origin(field.annotation) is not None:
            kind = {"type": float, "nargs": "+"}
        parser.add_argument(f"--{name}", help=_help(name), **kind)
    args = parser.parse_args(arguments)
    problem = _usage_error(args)
    if problem:
        parser.error(problem)
    settings = {name: getattr(args, name) for name in _options() if getattr(args, name) is not None}
    try:
        method = MERGES[args.method](**settings)
    except ValidationError as error:
        raise UsageError("\n".join(_wrong_values(error))) from error
    notes = method.merge(Sources(args.models, args.base, args.fishers or (), args.seed or 0), args.out)
    rows = [[str(model), share] for model, share in zip(args.models, _weights_for_card(method, args), strict=True)]
    rows += [[str(args.base), "base"]] if args.base else []
    made = f"Made by `{shlex.join(['sfa', 'merge', *arguments])}`."
    paragraphs = [made, markdown([["model", "weight"], *rows]), *notes]
    files.write(args.out / CARD, card.of_merge(args.method, args.models, args.base, args.out, paragraphs))
    print("\n".join([*notes, str(args.out)]))
    return 0


def _wrong_values(error: ValidationError) -> list[str]:
    errors = [(".".join(map(str, e["loc"])), e["msg"], e["input"]) for e in error.errors()]
    return [f"--{option}: {text.replace('Input should be', 'must be')}, not {value}" for option, text, value in errors]


def _options() -> dict[str, FieldInfo]:
    """The fields of all merges, by name; fields of the same name have the same meaning."""
    return {
        name: field
        for kind in MERGES.values()
        for name, field in kind.model_fields.items()
        if name not in STREAM_FIELDS
    }


def _help(option: str) -> str:
    """What an option means, for each of the merges that accept it."""
    meanings: dict[str, list[str]] = {}
    for name, kind in sorted(MERGES.items()):
        if option in kind.model_fields:
            meanings.setdefault(str(kind.model_fields[option].description), []).append(name)
    return "; ".join(f"for {' and '.join(names)}: {meaning}" for meaning, names in meanings.items()).replace("%", "%%")


def _users(option: str) -> str:
    """The merges that accept an option."""
    takes = {
        "base": lambda kind: kind.merges_from,
        "fishers": lambda kind: kind().fisher_settings() is not None,
        "seed": lambda kind: kind.draws,
    }
    is_used_by = takes.get(option, lambda kind: option in kind.model_fields)
    return " and ".join(name for name, kind in sorted(MERGES.items()) if is_used_by(kind))


def _weights_for_card(method: Method, args: argparse.Namespace) -> list[str]:
    """Each model's weight as the model card states it; empty if the merge has no such weights."""
    count = len(args.models)
    if method.merges_from and "weights" not in type(method).model_fields:
        return [""] * count
    weights = args.weights or [1 / count] * count
    beta = getattr(method, "beta", None)
    return [f"{weight:g}" for weight in ([beta, 1 - beta] if beta is not None else weights)]


def _usage_error(args: argparse.Namespace) -> str | None:
    """The first mistake in how the command is used, if any."""
    kind = MERGES[args.method]
    for option in ("base", "fishers", "seed", *_options()):
        if getattr(args, option) is not None and args.method not in _users(option).split(" and "):
            return f"--{option} is only for {_users(option)}"
    if kind.merges_from and args.base is None:
        return f"{args.method} requires --base"
    if kind.merge_count is not None and len(args.models) != kind.merge_count:
        return f"{args.method} takes {kind.merge_count} models"
    if kind().fisher_settings() is not None and len(args.fishers or []) != len(args.models):
        return f"{args.method} needs as many --fishers as models"
    if args.weights is not None and len(args.weights) != len(args.models):
        return f"{len(args.models)} models need as many --weights, not {len(args.weights)}"
    folders = [*args.models, *([args.base] if args.base else [])]
    for folder in (*folders, *(args.fishers or [])):
        if not list(folder.glob("*.safetensors*")):
            return f"{folder} holds no safetensors files"
    for folder in args.models:
        if sum(folder.resolve() == other.resolve() for other in folders) > 1:
            return f"{folder} is given twice"
    return None


if __name__ == "__main__":
    start(main)
