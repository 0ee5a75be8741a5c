"""SFA in Lightning's Trainer, in seconds on a CPU. Needs: pip install . lightning

A network learns classes 0 to 4, and then 5 to 9 with averaging.
"""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sfa.lightning import SFACallback

torch.manual_seed(17)
centers = torch.randn(10, 20) * 1.5


def task(classes: range, count: int = 12_800) -> TensorDataset:
    labels = torch.randint(classes.start, classes.stop, (count,))
    return TensorDataset(centers[labels] + torch.randn(count, 20), labels)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 10))

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(model: Classifier, data: TensorDataset, callbacks: list[Any]) -> None:
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=callbacks, accelerator="auto", logger=False, enable_checkpointing=False
    )
    trainer.fit(model, DataLoader(data, batch_size=64))


def accuracy(model: Classifier, classes: range) -> float:
    x, y = task(classes, 2000).tensors
    return float((model.net(x).argmax(1) == y).float().mean())


model = Classifier()
train(model, task(range(0, 5)), [])
print(f"after the first task: {accuracy(model, range(0, 5)):.2f} of it")
train(model, task(range(5, 10)), [SFACallback(p=0.25, beta=0.5)])
print(
    f"after the second task: {accuracy(model, range(0, 5)):.2f} of the first, {accuracy(model, range(5, 10)):.2f} of it"
)
