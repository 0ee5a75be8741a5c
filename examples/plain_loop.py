"""SFA in a plain PyTorch loop, in seconds on a CPU. Needs: pip install .

A network learns classes 0 to 4, and then 5 to 9 without and with averaging. The last line of each shows what is left of
the first task and what was learned of the second.
"""

import copy

import torch
from torch import Tensor, nn

from sfa import Averager

STEPS, BATCH, CLASSES = 200, 64, 10
torch.manual_seed(17)
centers = torch.randn(CLASSES, 20) * 1.5


def examples(classes: range, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(classes.start, classes.stop, (count,))
    return centers[labels] + torch.randn(count, 20), labels


def train(model: nn.Module, classes: range, averaged: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, steps=STEPS, p=0.25, beta=0.5 if averaged else 0.0)
    for _ in range(STEPS):
        x, y = examples(classes, BATCH)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        averager.step()


def accuracy(model: nn.Module, classes: range) -> float:
    x, y = examples(classes, 2000)
    return float((model(x).argmax(1) == y).float().mean())


first, second = range(0, 5), range(5, 10)
model = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, CLASSES))
train(model, first, averaged=False)
print(f"after the first task: {accuracy(model, first):.2f} of it")
for averaged in (False, True):
    tuned = copy.deepcopy(model)
    train(tuned, second, averaged)
    name = "with SFA" if averaged else "without"
    print(
        f"after the second task, {name}: {accuracy(tuned, first):.2f} of the first, {accuracy(tuned, second):.2f} of it"
    )
