"""Averager in a plain loop and under Accelerate, in one process, ends where Algorithm 1 ends."""

import pytest
import torch
from accelerate import Accelerator

from sfa import Averager, merge_steps
from tests.tiny import ROWS, P, T, algorithm_1, assert_close, loss, model, optimizer, rows, weights
from tests.trainer_cases import Cell, cells

CASES = [
    pytest.param(trainer, lora, dtype, marks=cells(Cell(trainer, "one process", weights, precision)))
    for trainer in ("plain loop", "Accelerate")
    for lora, weights in ((False, "full"), (True, "LoRA"))
    for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16"))
]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(("trainer", "lora", "dtype"), CASES)
def test_it_is_algorithm_1(trainer: str, lora: bool, dtype: torch.dtype, kind: str) -> None:
    network = model(dtype=dtype, lora=lora)
    opt = optimizer((p for p in network.parameters() if p.requires_grad), kind)
    accelerator = Accelerator(cpu=True) if trainer == "Accelerate" else None
    if accelerator is not None:
        network, opt = accelerator.prepare(network, opt)
    averager = Averager(network, T, p=P)
    for step in range(T):
        batch = loss(network, rows()[step * ROWS : (step + 1) * ROWS])
        accelerator.backward(batch) if accelerator is not None else batch.backward()
        opt.step()
        opt.zero_grad()
        averager.step()
    assert [merge["step"] for merge in averager.merges] == merge_steps(T, P)
    # Adam divides by the size of the gradient, and so makes rounding of tiny gradients as large as a step.
    tolerance = 1e-6 if dtype == torch.float32 else {"sgd": 4e-3, "adamw": 2e-2}[kind]
    if accelerator is not None:  # wraps it if a process group exists, even of one process
        network = accelerator.unwrap_model(network)
    assert_close(weights(network), algorithm_1(model(lora=lora), kind=kind), tolerance)
