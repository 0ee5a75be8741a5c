"""Merges from folder to folder against ``mergekit-yaml``: wall time and peak memory of the whole commands."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.bench.measure import Commands, Missing, Row, Setup, commands_in_turn
from scripts.bench.shapes import LLAMA
from sfa.tensors import locations, read, write

LINE = "merges of two models from folder to folder"
ROUNDS = {"135M": 2, "1B": 1}
WEIGHTS, DENSITY = (0.6, 0.3), 0.2

# mergekit's defaults, except for the tokenizer, which random models do not have. Of its other options, --lazy-unpickle
# is for pickles; --async-write writes the single shard in another thread and waits for it; smaller shards would
# make the output differ from ours.
OPTIONS = ("--no-copy-tokenizer", "--quiet")


def run(setup: Setup) -> list[Row]:
    """Two rows for each method and size: seconds, and the peak of resident memory.

    Raises:
        Missing: a command is not installed.
        RuntimeError: a command failed, or the merged models differ unexpectedly.
    """
    tool = Path(sys.executable).with_name("mergekit-yaml")
    if not tool.is_file():
        raise Missing("mergekit-yaml is not installed with this Python: make setup")
    rows = []
    for size, rounds in ({"1M": 2} if setup.small else ROUNDS).items():
        root = setup.scratch / f"folders-{size}"
        models = [root / name for name in ("base", "first", "second")]
        for number, folder in enumerate(models):
            _write_model(folder, LlamaConfig(**LLAMA[size], tie_word_embeddings=True), number, models[0])
        for method in ("linear", "task_arithmetic", "ties"):
            rows += _compare(method, size, models, root, str(tool), setup.rounds(rounds))
        shutil.rmtree(root)
    return rows


def _compare(method: str, size: str, models: list[Path], root: Path, tool: str, rounds: int) -> list[Row]:
    recipe = root / f"{method}.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(method, *models)))
    out = {name: root / f"merged by {name}" for name in ("ours", "mergekit-yaml")}
    commands = {
        "ours": [sys.executable, "-m", "scripts.merge", *_ours(method, *map(str, models)), "--out", str(out["ours"])],
        "mergekit-yaml": [tool, str(recipe), str(out["mergekit-yaml"]), *OPTIONS],
    }
    taken = commands_in_turn(commands, rounds, lambda name: shutil.rmtree(out[name], ignore_errors=True), warm_up=0)
    share = _share_of_differences(*out.values())
    if method != "ties" and share:
        raise RuntimeError(f"{method} of {size}: {share:.2%} of the merged weights differ by more than 1e-6")
    note = ""
    if method == "ties":
        note = (
            f"ours trims the whole task vector, as the paper does, mergekit each tensor: {share:.2%} of entries differ"
        )
    for folder in out.values():
        shutil.rmtree(folder)
    values: dict[str, Callable[[Commands], list[float]]] = {
        "s": lambda taken: taken.seconds,
        "B": lambda taken: taken.peak,
    }
    return [
        Row(
            LINE,
            f"{method}, {size}, {'peak memory' if unit == 'B' else 'wall time'}",
            "mergekit-yaml",
            of(taken["ours"]),
            of(taken["mergekit-yaml"]),
            bound=1.0,
            unit=unit,
            note=note,
        )
        for unit, of in values.items()
    ]


def _ours(method: str, base: str, *models: str) -> list[str]:
    from_base = ["--base", base, "--weights", *map(str, WEIGHTS)]
    return {
        "linear": ["soup", *models],
        "task_arithmetic": ["task_arithmetic", *models, *from_base],
        "ties": ["ties", *models, *from_base, "--density", str(DENSITY)],
    }[method]


def _recipe(method: str, base: Path, *models: Path) -> dict[str, Any]:
    """mergekit's YAML for the same merge as :func:`_ours`."""
    parameters: Mapping[str, Any] = {"density": DENSITY} if method == "ties" else {}
    weights = (1.0, 1.0) if method == "linear" else WEIGHTS
    merged = [
        {"model": str(model), "parameters": {"weight": weight, **parameters}}
        for model, weight in zip(models, weights, strict=True)
    ]
    recipe = {"merge_method": method, "models": merged, "dtype": "float32", "out_dtype": "float32"}
    return recipe if method == "linear" else {**recipe, "base_model": str(base)}


def _write_model(folder: Path, config: LlamaConfig, number: int, base: Path) -> None:
    """Writes a model of random float32 weights: the base if ``number`` is 0, else the base plus noise."""
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        parameters = dict(LlamaForCausalLM(config).named_parameters())  # tied ones only once
    generator = torch.Generator().manual_seed(number)
    started = locations(base) if number else {}

    def weights(name: str) -> Iterator[Tensor]:
        noise = torch.randn(parameters[name].shape, generator=generator)
        yield read(started[name], name).add(noise, alpha=0.001) if number else noise.mul_(0.02)

    write(folder / "model.safetensors", {name: tuple(p.shape) for name, p in parameters.items()}, weights)


def _share_of_differences(ours: Path, other: Path) -> float:
    """The share of entries that differ by more than 1e-6 of the largest in their tensor.

    Raises:
        RuntimeError: the models have different tensors, or one is not finite.
    """
    our_files, other_files = locations(ours), locations(other)
    if our_files.keys() != other_files.keys():
        raise RuntimeError(f"only one of the merged models has {sorted(our_files.keys() ^ other_files.keys())[:3]}")
    count = total = 0
    for name, file in our_files.items():
        a, b = read(file, name), read(other_files[name], name)
        if not a.isfinite().all():
            raise RuntimeError(f"{name} is not finite in {ours}")
        count += int(((a - b).abs() > 1e-6 * b.abs().max()).sum())
        total += a.numel()
    return count / total
