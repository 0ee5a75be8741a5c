"""The Fisher information of n examples, against one backward pass per example in a Python loop."""

from pathlib import Path

import torch
from torch import Tensor

from eval import available
from scripts.bench.measure import Missing, Row, Setup, in_turn
from sfa import config as configs
from sfa.config.schema import Config
from sfa.families import Sequences, family_of
from sfa.fisher import diagonal
from sfa.models import building
from sfa.stages.composer_model import StageModel

LINE = "Fisher information"
CASES = {  # config, examples, rounds
    "an MLP of 0.08M, MNIST": ("mnist", 200, 7),
    "a GPT-NeoX of 1M, arithmetic": ("quickstart", 128, 7),
    "SmolLM2-135M, GSM8K": ("smollm2_math_law", 6, 3),
}


def run(setup: Setup) -> list[Row]:
    rows = []
    for case, (name, count, rounds) in list(CASES.items())[: 2 if setup.small else None]:
        folder = [f"data_folder={setup.data_folder}"] if setup.data_folder else []
        try:
            config = configs.load(Path("yamls", f"{name}.yaml"), folder, available)
        except configs.ConfigError as error:
            raise Missing(str(error)) from error
        model, examples = _prepare(config, 6 if setup.small else count, setup.device)
        _assert_same(diagonal(model, examples, "empirical"), _loop(model, examples))
        works = {
            "ours": lambda model=model, examples=examples: diagonal(model, examples, "empirical"),
            "loop": lambda model=model, examples=examples: _loop(model, examples),
        }
        taken = in_turn(works, setup.rounds(rounds))
        against = "one backward pass per example in a Python loop"
        description = f"{case}, {len(examples)} examples, fp32, {setup.device}"
        rows.append(Row(LINE, description, against, taken["ours"], taken["loop"], 3.0, "at least"))
    return rows


def _prepare(config: Config, count: int, device: str) -> tuple[StageModel, list[dict[str, Tensor]]]:
    model, processor = building.build(config.model, config.seed, config.family(), config.tokenizer_tasks())
    task = config.tasks[0]
    settings = config.train_of(task)
    sequences = Sequences(config.model.layout, settings.seq_len, settings.long_rows)
    data = family_of(model.config).array_builder(processor, model.config, sequences)
    examples = data.examples(task, count, config.seed)
    moved = [{key: tensor.to(device) for key, tensor in example.items()} for example in examples]
    return StageModel(model, processor).eval().to(device), moved


def _loop(model: StageModel, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for example in examples:
        model.zero_grad()
        model.loss(model(_unpadded(example)), _unpadded(example)).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.clone().pow(2)
    return {name: tensor / len(examples) for name, tensor in total.items()}


def _unpadded(example: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the padding, which a loop does not need."""
    if "input_ids" not in example:
        return example
    length = int((example["labels"][0] >= 0).nonzero().max()) + 1
    return {key: tensor[:, :length] if tensor.ndim > 1 else tensor for key, tensor in example.items()}


def _assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-3, atol=1e-5 * float(tensor.max()) + 1e-10)
