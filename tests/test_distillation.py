"""Learning without forgetting against a plain loop with torch's own divergence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa.trainers.distillation import Distillation
from tests import tiny
from tests.tiny_stage import Rows, fitted, plain, predicted, saved

STRENGTH, TEMPERATURE = 0.7, 2.0


@pytest.mark.parametrize("microbatch", [4, 1])
def test_training_equals_a_plain_loop_with_kl_div(microbatch: int, tmp_path: Path) -> None:
    """λ·T²·KL(p_o ‖ p), the mean over the learned tokens of the batch."""
    teacher = tiny.model(seed=5)
    folder = saved(teacher, tmp_path / "teacher")

    def more(model: Any, logits: Tensor, rows: Rows, labels: Rows) -> Tensor:
        with torch.no_grad():
            then, _ = predicted(teacher, rows, labels)
        total = torch.zeros(())
        for student, old in zip(logits, then, strict=True):
            log_q, p = (student / TEMPERATURE).log_softmax(-1), (old / TEMPERATURE).softmax(-1)
            total = total + nn.functional.kl_div(log_q, p, reduction="sum")
        return STRENGTH * TEMPERATURE**2 * total / len(logits)

    ours = fitted(tiny.model(), [Distillation(folder, STRENGTH, TEMPERATURE)], microbatch)
    tiny.assert_close(ours, plain(tiny.model(), more))
    assert not torch.allclose(ours["lm_head.weight"], plain(tiny.model())["lm_head.weight"], atol=1e-3)


def test_it_is_resumed_bitwise(tmp_path: Path) -> None:
    teacher = Distillation(saved(tiny.model(seed=5), tmp_path / "teacher"), STRENGTH, TEMPERATURE)
    whole = fitted(tiny.model(), [teacher], checkpoints=tmp_path)
    resumed = fitted(tiny.model(seed=9), [teacher], load_path=str(tmp_path / "ep0-ba3.pt"))
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
