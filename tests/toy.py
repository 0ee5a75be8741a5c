"""A toy regression, a Composer trainer for it, and a plain PyTorch loop of Algorithm 1 written independently."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from composer import Algorithm, Trainer
from composer.models import ComposerModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sfa.fisher import Fisher
from sfa.schedule import exact_fraction
from sfa.stages.callbacks import Stopper, checkpoint_saver
from sfa.trainers.penalty import Penalty

BATCH = 4


class Regression(ComposerModel):
    """Two linear layers; ``hidden`` odd makes shards of uneven size, and the output layer leaves a rank without."""

    def __init__(self, hidden: int = 15, dtype: torch.dtype = torch.float32, seed: int = 0, outputs: int = 1):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).to(dtype)
        self.register_buffer("scale", torch.ones(1, dtype=dtype))

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        out: Tensor = self.net(batch[0]) * self.scale
        return out

    def loss(self, outputs: Tensor, batch: tuple[Tensor, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return nn.functional.mse_loss(outputs, batch[1])


def data(steps: int, dtype: torch.dtype = torch.float32, outputs: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps * BATCH, 6, generator=generator, dtype=torch.float64)
    y = torch.sin(x.sum(1, keepdim=True)).expand(-1, outputs)
    return x.to(dtype), y.to(dtype).contiguous()


def optimizer(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9 if kind == "momentum" else 0.0)


def trainer(
    model: Regression,
    steps: int,
    algorithms: list[Algorithm],
    kind: str = "sgd",
    max_duration: str = "1ep",
    ranks: int = 1,
    **more: Any,
) -> Trainer:
    from composer.utils import dist

    dataset = TensorDataset(*data(steps, next(model.parameters()).dtype, model.net[2].out_features))
    sampler = dist.get_sampler(dataset, shuffle=False)
    more.setdefault("optimizers", optimizer(model, kind))
    return Trainer(
        model=model,
        train_dataloader=DataLoader(dataset, batch_size=BATCH // ranks, sampler=sampler),
        max_duration=max_duration,
        algorithms=algorithms,
        device="cpu",
        seed=1,
        progress_bar=False,
        log_to_console=False,
        **more,
    )


def reference(
    model: Regression, steps: int, p: float, beta: float, kind: str, reset_optimizer: bool = False
) -> dict[str, Tensor]:
    """Algorithm 1 in a plain loop: after every multiple of pT, rounded up to a step, and at the end."""
    x, y = data(steps, next(model.parameters()).dtype, model.net[2].out_features)
    theta_o = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    merges = {math.ceil(k * Decimal(str(p)) * steps) for k in range(1, steps + 1)} | {steps}
    opt = optimizer(model, kind)
    for t in range(1, steps + 1):
        part = slice((t - 1) * BATCH, t * BATCH)
        opt.zero_grad()
        nn.functional.mse_loss(model.net(x[part]), y[part]).backward()
        opt.step()
        if t in merges:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(beta * theta_o[name] + (1 - beta) * parameter)
            if reset_optimizer:
                opt = optimizer(model, kind)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def penalty(kind: Any, folder: Path) -> Penalty:
    """A penalty on the toy regression with three outputs; EWC's Fisher information is taken over ten examples."""
    x, y = data(10, outputs=3)
    examples = [{0: x[i : i + 1], 1: y[i : i + 1]} for i in range(10)]
    fishers = [Fisher(folder, None, True, lambda: examples)] if kind == "ewc" else []  # type: ignore[arg-type,return-value]
    return Penalty(kind, 0.5, fishers=fishers)


def saver_every_step(folder: Path, steps: int) -> Any:
    """The suite's own checkpoint saver, kept from deleting earlier checkpoints."""
    saver = checkpoint_saver(str(folder), exact_fraction(1), steps, Stopper(steps))
    saver.num_checkpoints_to_keep = -1
    return saver
