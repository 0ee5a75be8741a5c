"""SFA under DeepSpeed ZeRO-3, in seconds. Needs: pip install . deepspeed

    $ deepspeed examples/deepspeed_zero3.py                  # on all GPUs of this machine
    $ DS_ACCELERATOR=cpu torchrun --standalone --nproc-per-node 2 examples/deepspeed_zero3.py

A network whose weights are split over the ranks learns classes 0 to 4, and then 5 to 9 with averaging. Each rank holds
θ_o of its own part.
"""

from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from sfa import Averager

STEPS, BATCH = 200, 64
CONFIG = {
    "zero_optimization": {"stage": 3},
    "bf16": {"enabled": True},
    "train_micro_batch_size_per_gpu": BATCH,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}
deepspeed.init_distributed()
rank = torch.distributed.get_rank()
torch.manual_seed(17)
centers = torch.randn(10, 20) * 1.5


def examples(classes: range, count: int, device: Any) -> tuple[Tensor, Tensor]:
    labels = torch.randint(classes.start, classes.stop, (count,))
    return (centers[labels] + torch.randn(count, 20)).to(device, torch.bfloat16), labels.to(device)


def train(engine: Any, classes: range, beta: float) -> None:
    averager = Averager(engine, steps=STEPS, p=0.25, beta=beta)
    for _ in range(STEPS):
        x, y = examples(classes, BATCH, engine.device)
        engine.backward(nn.functional.cross_entropy(engine(x).float(), y))
        engine.step()
        averager.step()
    if rank == 0:
        print(f"rank 0 held {averager.bytes:,} bytes for {len(averager.merges)} merges")


def accuracy(engine: Any, classes: range) -> float:
    x, y = examples(classes, 2000, engine.device)
    with torch.no_grad():
        return float((engine(x).argmax(1) == y).float().mean())


model = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 10))
torch.manual_seed(rank)  # from here on, each rank draws its own examples
engine, *_ = deepspeed.initialize(model=model, config=CONFIG)
for number, classes in enumerate((range(0, 5), range(5, 10))):
    train(engine, classes, beta=0.5 if number else 0.0)
    scores = [accuracy(engine, each) for each in (range(0, 5), range(5, 10))]
    if rank == 0:
        print(f"after task {number + 1}: {scores[0]:.2f} of the first, {scores[1]:.2f} of the second")
torch.distributed.destroy_process_group()
