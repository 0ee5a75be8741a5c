"""transformers' Trainer on the tiny model, without anything that Algorithm 1 does not have."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from sfa.huggingface import SFACallback
from tests.tiny import LEARNING_RATE, ROWS, Row, T, rows


class Ordered(Trainer):
    """Trains on the rows in their order, and exempts no parameter from weight decay."""

    def _get_train_sampler(self, *args: Any) -> Sampler[Any]:
        return SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()]


def trainer(
    network: nn.Module,
    folder: Path,
    callbacks: list[TrainerCallback],
    kind: str = "sgd",
    accumulation: int = 1,
    ranks: int = 1,
    data: list[Row] | None = None,
    **more: Any,
) -> Trainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": ROWS // accumulation // ranks,
        "gradient_accumulation_steps": accumulation,
        "max_steps": T,
        "learning_rate": LEARNING_RATE[kind],
        "optim": "sgd" if kind == "sgd" else "adamw_torch",
        "weight_decay": 0.1 if kind == "adamw" else 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        **more,
    }
    arguments = TrainingArguments(str(folder), **settings)
    return Ordered(network, arguments, train_dataset=data or rows(), eval_dataset=rows(1), callbacks=callbacks)


def steps(callback: SFACallback) -> list[int]:
    """The steps after which a callback merged."""
    return [merge["step"] for merge in callback.averager.merges]
