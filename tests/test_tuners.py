"""Orthogonal LoRA and orthogonal subspace fine-tuning against plain loops that share nothing with peft."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from torch.func import functional_call

from sfa.data.batches import BatchSchedule
from sfa.methods import METHODS
from sfa.methods.base import Fit, Past
from sfa.trainers.orthogonal import add_gradient
from tests import tiny
from tests.tiny_stage import BATCH, LEARNING_RATE, SEED, STEPS, arrays, fitted, predicted

TARGETS = ["q_proj", "down_proj"]
Parts = dict[str, Tensor]
NONE: Any = None


def targets(model: nn.Module) -> Parts:
    return {f"{n}.weight": m.weight for n, m in model.named_modules() if n.rpartition(".")[2] in TARGETS}  # type: ignore[misc]


def loop(model: Any, parts: list[Parts], weights: Any, penalty: Any = None, project: Any = None) -> Parts:
    """The target matrices after SGD with momentum on ``parts``, from which ``weights`` makes the matrices."""

    class Called:
        def __call__(self, **inputs: Tensor) -> Any:
            return functional_call(model, weights(), (), inputs)

    leaves = [part[name] for part in parts for name in part]
    optimizer = torch.optim.SGD(leaves, lr=LEARNING_RATE, momentum=0.9)
    schedule, data = BatchSchedule([arrays(30, 0)], STEPS, BATCH, SEED), arrays(30, 0)
    for t in range(STEPS):
        chosen = schedule.order[t * BATCH : (t + 1) * BATCH]
        logits, wanted = predicted(Called(), *([data[key][i] for i in chosen] for key in ("input_ids", "labels")))
        loss = nn.functional.cross_entropy(logits, wanted)
        (loss if penalty is None else loss + penalty()).backward()
        if project is not None:
            project()
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach() for name, weight in weights().items()}


def trained(method: Any, folder: Path, past: list[Past] = NONE, start: Any = None) -> Any:
    fit = Fit(STEPS, NONE, 5, folder, past or [])
    model = method.tuned(start or tiny.model(), fit)
    first = copy.deepcopy(get_peft_model_state_dict(model))
    fitted(model, method.algorithms(fit))
    return first, method.plain(model, folder)


def test_the_gradient_of_the_penalty_is_autograds() -> None:
    a, past, gradient = (torch.randn(r, 6, generator=torch.Generator().manual_seed(r)) for r in (2, 4, 2))
    leaf = a.clone().requires_grad_()
    (0.3 * (leaf @ past.T).abs().sum()).backward()
    assert leaf.grad is not None
    expected = gradient + leaf.grad
    add_gradient(0.3, gradient, a, past)
    torch.testing.assert_close(gradient, expected)


def test_o_lora_equals_a_plain_loop_over_two_past_tasks(tmp_path: Path) -> None:
    """W + α/r·B·A, and λ·Σ_i Σ|A·A_iᵀ| over the factors of both past tasks."""
    method = METHODS["o_lora"].model_validate({"rank": 2, "alpha": 6, "strength": 0.05, "target_modules": TARGETS})
    past, factors, model = [], [], tiny.model()
    for task in range(3):
        folder = tmp_path / str(task)
        start = copy.deepcopy(model)
        first, model = trained(method, folder, past, model)
        a = {n: first[f"base_model.model.{n}".replace(".weight", ".lora_A.weight")].clone() for n in targets(start)}
        b = {n: first[f"base_model.model.{n}".replace(".weight", ".lora_B.weight")].clone() for n in targets(start)}
        for leaf in [*a.values(), *b.values()]:
            leaf.requires_grad_()

        def weights(start: Any = start, a: Parts = a, b: Parts = b) -> Parts:
            return {n: w.detach() + 6 / 2 * b[n] @ a[n] for n, w in targets(start).items()}

        def penalty(a: Parts = a, factors: list[Parts] = factors) -> Tensor:
            return 0.05 * sum(((a[n] @ other[n].T).abs().sum() for other in factors for n in a), torch.zeros(()))

        expected = loop(start, [a, b], weights, penalty)
        tiny.assert_close({n: w.detach() for n, w in targets(model).items()}, expected, 1e-5)
        for name, weight in model.state_dict().items():
            assert name in expected or torch.equal(weight, start.state_dict()[name]), name
        factors.append({n: leaf.detach() for n, leaf in a.items()})
        past.append(Past(folder, folder, task == 2, NONE))
    assert all(not torch.equal(factors[0][n], factors[1][n]) for n in factors[0])


def test_osf_equals_a_plain_loop_on_its_own_decomposition(tmp_path: Path) -> None:
    """W = U_h·S_h·V_h + U_l·S_l·V_l of which the second term is trained, with gradients orthogonal to the first."""
    method: Any = METHODS["osf"].model_validate({"preserved": 0.4, "target_modules": TARGETS})
    start = tiny.model()
    _, model = trained(method, tmp_path)
    kept: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    u, s, v = {}, {}, {}
    for n, w in targets(start).items():
        left, values, right = torch.linalg.svd(w.detach(), full_matrices=False)
        k = int(0.4 * min(w.shape))
        kept[n] = (left[:, :k], values[:k], right[:k])
        u[n], s[n], v[n] = (p.clone().requires_grad_() for p in (left[:, k:], values[k:], right[k:]))

    def weights() -> Parts:
        return {n: (a * b) @ c + (u[n] * s[n]) @ v[n] for n, (a, b, c) in kept.items()}

    def project() -> None:
        for n, (left, _, right) in kept.items():
            u[n].grad = u[n].grad - left @ left.T @ u[n].grad  # type: ignore[operator]
            v[n].grad = v[n].grad - v[n].grad @ right.T @ right  # type: ignore[operator]

    tiny.assert_close(
        {n: w.detach() for n, w in targets(model).items()}, loop(start, [u, s, v], weights, NONE, project), 1e-5
    )
    for n, (left, values, right) in kept.items():  # what is kept is still a part of the matrix
        torch.testing.assert_close(targets(model)[n] @ right.T, left * values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["o_lora", "osf"])
def test_what_they_cannot_train_is_an_error(name: str) -> None:
    method: Any = METHODS[name]()
    assert method.rows == ("text",)
    assert [line.partition(":")[0] for line in method.model_errors(True, True)] == ["model.lora", "parallelism"]
    assert method.model_errors(False, False) == []
