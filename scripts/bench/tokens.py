"""Training tokens that count a second: packed sequences against Hugging Face's Trainer on padded batches, and on a GPU
against TRL's packed SFTTrainer; the same model, rows, optimizer and tokens per batch. Each round draws new rows."""

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from composer import Trainer
from datasets import Dataset

from eval import available
from scripts.bench.measure import Missing, Row, Setup, in_turn
from sfa import config as configs
from sfa.data.batches import BatchSchedule, data_spec
from sfa.data.packing import IGNORED, Example, encode, pack
from sfa.data.source import SourceError
from sfa.data.tokens import Encoder
from sfa.models import stored
from sfa.stages.composer_model import StageModel
from sfa.stages.training import release

LINE = "training tokens that count a second"
ROWS = 8  # of a padded batch, the Trainer's default
MODEL = "models/smollm2-135m"


def run(setup: Setup) -> list[Row]:
    seq_len, steps = (512, 1 if setup.small else 3) if setup.device == "cpu" else (1024, 20)
    model, processor, examples = _load(setup, seq_len)
    model.to(setup.device)
    rows = 2 if setup.small else ROWS if setup.device == "cpu" else 4 * ROWS
    padded = statistics.fmean(_padded_tokens(examples, rows))
    batch = max(1, round(padded / seq_len))  # packed sequences with as many tokens as a padded batch
    works = {
        "ours": _ours(model, processor, examples, seq_len, steps, batch, setup.device),
        "theirs": _trainer(model, examples, rows, steps, setup.device),
    }
    if setup.device == "cuda":
        works["trl"] = _trl(model, processor, examples, seq_len, steps, batch)
    counted: dict[str, list[int]] = {name: [] for name in works}
    rounds = setup.rounds(7)
    taken = in_turn({name: _counting(work, counted[name]) for name, work in works.items()}, rounds)
    cost = {
        name: [seconds / n for seconds, n in zip(taken[name], counted[name][-rounds:], strict=True)] for name in works
    }
    precision = "fp32" if setup.device == "cpu" else "bf16"
    case = f"{MODEL}, GSM8K and Law, {batch} x {seq_len} tokens a step, {precision}, {setup.device}"
    against = f"Hugging Face Trainer, {rows} padded rows, {padded:.0f} tokens on average"
    lines = [Row(LINE, case, against, cost["ours"], cost["theirs"], 1.5, "at least", "s a token")]
    if "trl" in cost:
        lines.append(
            Row(
                LINE,
                case,
                "TRL's SFTTrainer, packed",
                cost["ours"],
                cost["trl"],
                1.0,
                "at least",
                "s a token",
            )
        )
    return lines


def _load(setup: Setup, seq_len: int) -> tuple[Any, Any, list[Example]]:
    if not Path(MODEL).is_dir():
        raise Missing(f"{MODEL} does not exist: make {MODEL}")
    data = [f"data_folder={setup.data_folder}"] if setup.data_folder else []
    try:
        config = configs.load(Path("yamls/smollm2_math_law.yaml"), [*data, "tasks.1.tos={}"], available)
        rows = [row for task in config.tasks for row in task.rows("train")]
    except (configs.ConfigError, SourceError) as error:
        raise Missing(str(error)) from error
    processor = stored.read_processor(MODEL)
    examples, _ = encode(rows, Encoder(processor, config.model.layout), seq_len)
    return stored.read_model(MODEL), processor, examples


def _padded_tokens(examples: list[Example], rows: int) -> list[int]:
    lengths = np.array([len(example["input_ids"]) for example in examples])
    order = np.random.default_rng(0).permutation(len(lengths))[: len(lengths) // rows * rows]
    return [int(n) * rows for n in lengths[order].reshape(-1, rows).max(1)]


def _counting(work: Callable[[], int], counted: list[int]) -> Callable[[], None]:
    return lambda: counted.append(work())


def _ours(
    model: Any, processor: Any, examples: list[Example], seq_len: int, steps: int, batch: int, device: str
) -> Callable[[], int]:
    packed = pack(examples, seq_len, int(processor.pad_token_id), seed=0)
    seeds = itertools.count()

    def train() -> int:
        trainer = Trainer(
            model=StageModel(model, processor),
            train_dataloader=data_spec(BatchSchedule([packed], steps, batch, next(seeds)), batch),
            max_duration=f"{steps}ba",
            optimizers=torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda"),
            precision="amp_bf16" if device == "cuda" else "fp32",
            device="gpu" if device == "cuda" else "cpu",
            progress_bar=False,
            log_to_console=False,
        )
        trainer.fit()
        tokens = int(trainer.state.timestamp.token.value)
        trainer.close()
        release(trainer)
        return tokens

    return train


def _trainer(model: Any, examples: list[Example], rows: int, steps: int, device: str) -> Callable[[], int]:
    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in batch)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([example[key] + [fill] * (longest - len(example[key])) for example in batch])

        mask = [[1] * len(example["input_ids"]) + [0] * (longest - len(example["input_ids"])) for example in batch]
        token_counts.append(sum(map(sum, mask)))
        return {
            "input_ids": padded("input_ids", 0),
            "labels": padded("labels", IGNORED),
            "attention_mask": torch.tensor(mask),
        }

    token_counts: list[int] = []
    seeds = itertools.count()

    def train() -> int:
        token_counts.clear()
        options = _options(device, steps, next(seeds)) | {"per_device_train_batch_size": rows}
        arguments = transformers.TrainingArguments(**options)
        transformers.Trainer(model, arguments, data_collator=collate, train_dataset=examples).train()
        return sum(token_counts[:steps])

    return train


def _trl(
    model: Any, processor: Any, examples: list[Example], seq_len: int, steps: int, batch: int
) -> Callable[[], int]:
    try:
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError as error:
        raise Missing(f"{error}: make bench installs the packages to compare with") from error
    masked = [
        {"input_ids": example["input_ids"], "completion_mask": [int(label != IGNORED) for label in example["labels"]]}
        for example in examples
    ]
    seeds = itertools.count()

    def train() -> int:
        options = _options("cuda", steps, next(seeds)) | {"per_device_train_batch_size": batch}
        arguments = SFTConfig(**options, packing=True, max_length=seq_len, include_num_input_tokens_seen="non_padding")
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(masked), processing_class=processor
        )
        trainer.train()
        return int(trainer.state.num_input_tokens_seen)

    return train


def _options(device: str, steps: int, seed: int) -> dict[str, Any]:
    return {
        "output_dir": "runs/bench",
        "max_steps": steps,
        "seed": seed,
        "learning_rate": 1e-5,
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "gradient_checkpointing": False,
    }
