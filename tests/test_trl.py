"""TRL's SFTTrainer with SFA's callback ends where Algorithm 1 in a plain loop ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from sfa import merge_steps
from sfa.huggingface import SFACallback
from tests.tiny import LEARNING_RATE, ROWS, SIZES, P, T, algorithm_1, assert_close, model, optimizer, rows, weights
from tests.tiny_trainer import steps
from tests.trainer_cases import Cell, cells


class Ordered(SFTTrainer):
    def _get_train_sampler(self, *args: Any) -> Sampler[Any]:
        return SequentialSampler(self.train_dataset)


def trainer(network: torch.nn.Module, folder: Path, callback: SFACallback, accumulation: int) -> SFTTrainer:
    words = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, SIZES["vocab_size"])}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="<pad>", eos_token="<eos>"
    )
    arguments = SFTConfig(
        str(folder),
        per_device_train_batch_size=ROWS // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=T,
        learning_rate=LEARNING_RATE["sgd"],
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"input_ids": [row["input_ids"].tolist() for row in rows()]})
    own = optimizer((p for p in network.parameters() if p.requires_grad), "sgd")
    return Ordered(network, arguments, None, data, None, tokenizer, callbacks=[callback], optimizers=(own, None))


@pytest.mark.parametrize(
    ("lora", "accumulation", "dtype"),
    [
        pytest.param(False, 2, torch.float32, marks=cells(Cell("TRL", "one process"))),
        pytest.param(False, 1, torch.bfloat16, marks=cells(Cell("TRL", "one process", precision="bf16"))),
        pytest.param(True, 2, torch.float32, marks=cells(Cell("TRL", "one process", "LoRA"))),
        pytest.param(True, 1, torch.bfloat16, marks=cells(Cell("TRL", "one process", "LoRA", "bf16"))),
    ],
)
def test_it_is_algorithm_1(lora: bool, accumulation: int, dtype: torch.dtype, tmp_path: Path) -> None:
    network, callback = model(dtype=dtype, lora=lora), SFACallback(p=P)
    trainer(network, tmp_path, callback, accumulation).train()
    assert steps(callback) == merge_steps(T, P)
    expected = algorithm_1(model(lora=lora), accumulation=accumulation)
    assert_close(weights(network), expected, 1e-6 if dtype == torch.float32 else 4e-3)
