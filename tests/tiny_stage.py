"""A stage's training of the tiny language model in Composer, and the same steps in plain PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer import Algorithm, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from sfa.data.batches import BatchSchedule, data_spec
from sfa.data.memory import Memory
from sfa.data.packing import IGNORED, Arrays
from sfa.stages.composer_model import StageModel
from tests import tiny
from tests.toy import saver_every_step

STEPS, BATCH, LENGTH, SEED, LEARNING_RATE = 6, 4, 7, 3, 0.3
Rows = list[NDArray[np.int64]]
More = Callable[[Any, Tensor, Rows, Rows], Tensor]  # of the model, its logits, the batch's ids and labels: further loss


def arrays(count: int, seed: int) -> Arrays:
    """Random sequences of different lengths, of which the first tokens are a prompt."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, LENGTH + 1, size=count)
    ids = rng.integers(tiny.SIZES["vocab_size"], size=(count, LENGTH))
    place = np.arange(LENGTH)
    is_learned = (place >= rng.integers(1, 3, size=count)[:, None]) & (place < tokens[:, None])
    return {"input_ids": ids, "labels": np.where(is_learned, ids, IGNORED), "tokens": tokens}


def memory(past: list[Arrays]) -> Memory:
    return Memory(past, BATCH, SEED)


def fitted(
    model: Any, algorithms: list[Algorithm], microbatch: int = BATCH, checkpoints: Path | None = None, **more: Any
) -> dict[str, Tensor]:
    """The weights after STEPS of SGD with the stage's own model, schedule and loss."""
    schedule = BatchSchedule([arrays(30, 0)], STEPS, BATCH, SEED)
    stage = StageModel(model, None)
    trainer = Trainer(
        model=stage,
        train_dataloader=data_spec(schedule, BATCH),
        max_duration=f"{STEPS}ba",
        optimizers=torch.optim.SGD(stage.parameters(), lr=LEARNING_RATE, momentum=0.9),
        algorithms=algorithms,
        callbacks=[saver_every_step(checkpoints, STEPS)] if checkpoints else [],
        device="cpu",
        device_train_microbatch_size=microbatch,
        seed=1,
        progress_bar=False,
        log_to_console=False,
        **more,
    )
    trainer.fit()
    trainer.close()
    return tiny.weights(model)


def plain(
    model: Any,
    more: More | None = None,
    gradient: Callable[[Any, int, list[Tensor]], list[Tensor]] | None = None,
    after: Callable[[Any, int], None] | None = None,
) -> dict[str, Tensor]:
    """The weights after the same steps in a loop over sequences: the mean loss over the learned tokens of each batch,
    plus the mean of ``more`` over them; ``gradient`` changes the gradients, ``after`` the weights after a step."""
    schedule = BatchSchedule([arrays(30, 0)], STEPS, BATCH, SEED)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=0.9)
    model.train()
    for step in range(STEPS):
        rows = [schedule.arrays[0]["input_ids"][i] for i in schedule.order[step * BATCH : (step + 1) * BATCH]]
        labels = [schedule.arrays[0]["labels"][i] for i in schedule.order[step * BATCH : (step + 1) * BATCH]]
        logits, targets = predicted(model, rows, labels)
        loss = nn.functional.cross_entropy(logits, targets)
        if more is not None:
            loss = loss + more(model, logits, rows, labels)
        gradients = list(torch.autograd.grad(loss, trained))
        if gradient is not None:
            gradients = gradient(model, step, gradients)
        for parameter, value in zip(trained, gradients, strict=True):
            parameter.grad = value
        optimizer.step()
        if after is not None:
            after(model, step)
    return tiny.weights(model)


def predicted(model: Any, rows: Rows, labels: Rows) -> tuple[Tensor, Tensor]:
    """The logits that predict the learned tokens of sequences, one sequence at a time, and those tokens."""
    logits, targets = [], []
    for ids, wanted in zip(map(torch.as_tensor, rows), map(torch.as_tensor, labels), strict=True):
        found = model(input_ids=ids[None]).logits[0]
        for place in range(1, len(ids)):
            if wanted[place] != IGNORED:
                logits.append(found[place - 1])
                targets.append(ids[place])
    return torch.stack(logits), torch.stack(targets)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder
