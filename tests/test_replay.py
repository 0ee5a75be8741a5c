"""A-GEM and DER against plain loops over the draws from memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa.data.memory import Memory
from sfa.stored_logits import StoredLogits
from sfa.trainers.agem import AGEM
from sfa.trainers.der import DER
from tests import tiny
from tests.tiny_stage import BATCH, Rows, arrays, fitted, memory, plain, predicted, saved

PAST = [arrays(9, 1), arrays(3, 2)]


def drawn(stored: Memory, step: int, which: int = 0) -> tuple[Rows, Rows]:
    places = stored.draw(step, which)
    return [PAST[t]["input_ids"][i] for t, i in places], [PAST[t]["labels"][i] for t, i in places]


def test_a_draw_takes_tasks_alike_and_is_the_same_every_time() -> None:
    stored = memory(PAST)
    places = [place for step in range(500) for place in stored.draw(step)]
    assert sum(task == 0 for task, _ in places) / len(places) == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
    assert {row for task, row in places if task == 0} == {*range(9)} and {r for t, r in places if t} == {*range(3)}
    assert stored.draw(7) == memory(PAST).draw(7) != stored.draw(7, 1)


@pytest.mark.parametrize("microbatch", [4, 1])
def test_agem_equals_the_equation_in_a_plain_loop(microbatch: int) -> None:
    """Equation 11: g − (gᵀg_ref / g_refᵀg_ref)·g_ref if gᵀg_ref < 0."""
    stored, turned = memory(PAST), []

    def gradient(model: Any, step: int, gradients: list[Tensor]) -> list[Tensor]:
        logits, targets = predicted(model, *drawn(stored, step))
        loss = nn.functional.cross_entropy(logits, targets)
        reference = torch.autograd.grad(loss, list(model.parameters()))
        g, g_ref = (nn.utils.parameters_to_vector(part) for part in (gradients, reference))
        turned.append(bool(g @ g_ref < 0))
        if turned[-1]:
            g = g - (g @ g_ref) / (g_ref @ g_ref) * g_ref
        return [part.view_as(p) for part, p in zip(g.split([p.numel() for p in gradients]), gradients, strict=True)]

    expected = plain(tiny.model(), gradient=gradient)
    assert {*turned} == {True, False}
    tiny.assert_close(fitted(tiny.model(), [AGEM(memory(PAST))], microbatch), expected)


@pytest.mark.parametrize(("alpha", "beta", "microbatch"), [(0.5, 0.0, 4), (0.3, 0.6, 1)])
def test_der_equals_its_loss_in_a_plain_loop(alpha: float, beta: float, microbatch: int, tmp_path: Path) -> None:
    """The mean squared difference to the logits after each sequence's task, and the loss on another draw."""
    old = [tiny.model(seed=5), tiny.model(seed=6)]
    stored, step = memory(PAST), iter(range(100))

    def more(model: Any, logits: Tensor, rows: Rows, labels: Rows) -> Tensor:
        t = next(step)
        loss = torch.zeros(())
        now, _ = predicted(model, *drawn(stored, t))
        with torch.no_grad():
            place = stored.draw(t)
            then = torch.cat(
                [predicted(old[i], *([PAST[i][k][j]] for k in ("input_ids", "labels")))[0] for i, j in place]
            )
        loss = loss + alpha * nn.functional.mse_loss(now, then)
        if beta:
            loss = loss + beta * nn.functional.cross_entropy(*predicted(model, *drawn(stored, t, 1)))
        return loss

    lines: list[str] = []
    logits = [
        StoredLogits(tmp_path / f"stage{i}", saved(model, tmp_path / f"stage{i}" / "model"), PAST[i])
        for i, model in enumerate(old)
    ]
    kept = memory(PAST)
    ours = fitted(tiny.model(), [DER(kept, logits, alpha, beta, lines.append)], microbatch)
    tiny.assert_close(ours, plain(tiny.model(), more))
    tokens = [int((rows["labels"] != -100).sum()) for rows in PAST]
    assert lines[0].endswith(f"{tokens[0]} x {tiny.SIZES['vocab_size']} numbers, 0.0 MiB") and len(lines) == 2
    assert kept.further_bytes == pytest.approx(sum(tokens) * tiny.SIZES["vocab_size"] * 4, abs=200)  # two headers
    again = fitted(tiny.model(), [DER(memory(PAST), logits, alpha, beta, lines.append)], microbatch)
    assert len(lines) == 2 and all(torch.equal(again[name], weight) for name, weight in ours.items())  # from the files


def test_memory_is_resumed_bitwise(tmp_path: Path) -> None:
    whole = fitted(tiny.model(), [AGEM(memory(PAST))], checkpoints=tmp_path)
    resumed = fitted(tiny.model(seed=9), [AGEM(memory(PAST))], load_path=str(tmp_path / "ep0-ba3.pt"))
    assert BATCH == 4 and all(torch.equal(resumed[name], weight) for name, weight in whole.items())
