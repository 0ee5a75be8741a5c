"""What L2 and EWC add to a step, against the autograd penalty of Avalanche's EWC plugin on the same model."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scripts.bench import shapes
from scripts.bench.measure import Missing, Row, Setup, in_turn, peak
from sfa.anchor import Anchor, trained_shards
from sfa.penalties import Kind, add_gradient

LINE = "L2 and EWC, added to a step"
STRENGTH = 0.5


def run(setup: Setup) -> list[Row]:
    rows = []
    for shape in ("1M",) if setup.small else ("10M", "135M"):
        model = shapes.build(shape, setup.device)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        theirs = _avalanche(model, setup.device)
        works: dict[str, Callable[[], Any]] = {"l2": _ours("l2", model), "ewc": _ours("ewc", model), "other": theirs}
        _assert_same_gradient(model, works["ewc"], theirs)
        taken = in_turn(works, setup.rounds(9))
        peaks = {name: peak(work) for name, work in works.items()}
        against = "Avalanche's EWCPlugin, its penalty and the backward pass of it"
        for kind in ("l2", "ewc"):
            case = f"{kind}, {shape}, fp32, {setup.device}"
            rows.append(Row(LINE, case, against, taken[kind], taken["other"], 3.0, "at least"))
            memory = f"{case}, peak memory over what is held"
            rows.append(Row(LINE, memory, against, [peaks[kind]], [max(peaks["other"], 1)], 1.0, unit="B"))
    return rows


def _ours(kind: Kind, model: Any) -> Callable[[], None]:
    shards = trained_shards(model)
    anchor, fisher = Anchor(shards, "device"), {name: torch.ones_like(shard) for name, shard in shards.items()}
    for theta_o in anchor.shards.values():
        theta_o.add_(0.01)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    weight = fisher if kind == "ewc" else None
    return lambda: add_gradient(kind, 2 * STRENGTH, gradients, trained_shards(model), anchor.shards, weight)


def _avalanche(model: Any, device: str) -> Callable[[], None]:
    """Its plugin during a second task, with the few attributes of a training that it uses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from avalanche.training.plugins.ewc import EWCPlugin
            from avalanche.training.utils import copy_params_dict
    except ModuleNotFoundError as error:
        raise Missing(f"{error}: make bench installs the packages to compare with") from error
    plugin = EWCPlugin(ewc_lambda=STRENGTH)
    plugin.saved_params[0], plugin.importances[0] = copy_params_dict(model), copy_params_dict(model)
    for saved, importance in zip(plugin.saved_params[0].values(), plugin.importances[0].values(), strict=True):
        saved.data.add_(0.01)
        importance.data.fill_(1.0)
    training = SimpleNamespace(clock=SimpleNamespace(train_exp_counter=1), device=device, model=model)

    def penalize() -> None:
        training.loss = torch.zeros((), device=device)
        plugin.before_backward(training)
        training.loss.backward()

    return penalize


def _assert_same_gradient(model: Any, ours: Callable[[], None], theirs: Callable[[], None]) -> None:
    gradients: list[dict[str, Tensor]] = []
    for work in (ours, theirs):
        for parameter in model.parameters():
            parameter.grad.zero_()
        work()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7)
