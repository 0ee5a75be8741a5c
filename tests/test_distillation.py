"""Learning without forgetting, and SFA that merges where the divergence passes a bound, against plain loops with
torch's own divergence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa.trainers.composer import SFA
from sfa.trainers.distillation import Distillation, Drift
from tests import tiny
from tests.tiny_stage import STEPS, Rows, fitted, plain, predicted, saved

STRENGTH, TEMPERATURE, BOUND = 0.7, 2.0, 0.02


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


@pytest.mark.parametrize("microbatch", [4, 1])
def test_sfa_merges_where_the_divergence_of_a_batch_passes_a_bound(microbatch: int, tmp_path: Path) -> None:
    """KL(p_o ‖ p) of the model before a step, the mean over the learned tokens of its batch."""
    theta_o = tiny.model(seed=5)
    at_start, divergences, merged = tiny.weights(theta_o), [], []

    def measure(model: Any, logits: Tensor, rows: Rows, labels: Rows) -> Tensor:
        with torch.no_grad():
            then, _ = predicted(theta_o, rows, labels)
            log_q, log_p = logits.log_softmax(-1), then.log_softmax(-1)
            divergences.append(float(nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)))
        return torch.zeros(())

    def merge(model: Any, step: int) -> None:
        if divergences[step] > BOUND or step == STEPS - 1:
            merged.append(step + 1)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(0.5 * at_start[name] + 0.5 * parameter)

    expected = plain(tiny.model(seed=5), measure, after=merge)
    drift = Drift(saved(theta_o, tmp_path / "theta_o"), BOUND)
    sfa = SFA(when=drift.is_passed)
    tiny.assert_close(fitted(tiny.model(seed=5), [drift, sfa], microbatch), expected)
    assert [done["step"] for done in sfa.merges] == merged and 1 < len(merged) < STEPS - 1
