"""Averager: Algorithm 1 in a plain PyTorch loop, without any trainer."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfa import Averager, merge_steps
from sfa.errors import NotFinite
from sfa.schedule import Duration
from tests.toy import BATCH, Regression, data, optimizer, reference, weights

STEPS = 23  # divisible by no p·T of the lists below


def train(model: Regression, averager: Averager, steps: range = range(STEPS), kind: str = "sgd") -> dict[str, Tensor]:
    x, y = data(STEPS)
    opt = optimizer(model, kind)
    for t in steps:
        part = slice(t * BATCH, (t + 1) * BATCH)
        opt.zero_grad()
        nn.functional.mse_loss(model.net(x[part]), y[part]).backward()
        opt.step()
        averager.step()
    return weights(model)


@pytest.mark.parametrize("beta", [0.25, 1])
@pytest.mark.parametrize("p", [1, 0.5, 0.17])
def test_a_plain_loop_with_an_averager_is_algorithm_1(p: float, beta: float) -> None:
    model = Regression()
    averager = Averager(model, STEPS, p=p, beta=beta)
    ours = train(model, averager)
    assert [merge["step"] for merge in averager.merges] == merge_steps(STEPS, p)
    for name, expected in reference(Regression(), STEPS, p, beta, "sgd").items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-6)


def test_its_state_is_plain_numbers_and_goes_on_where_it_was() -> None:
    model = Regression()
    whole = Averager(model, STEPS, p=0.25)
    expected = train(model, whole)
    model = Regression()
    first = Averager(model, STEPS, p=0.25)
    train(model, first, range(9))
    state = first.state_dict()
    assert first.anchor is not None and not any(isinstance(part, Tensor) for part in state.values())
    again = Regression()  # θ_o is what it was built with
    second = Averager(again, STEPS, p=0.25)
    again.load_state_dict(model.state_dict())
    second.load_state_dict(json.loads(json.dumps(state)))
    model = again
    merged = train(model, second, range(9, STEPS))
    assert [merge["step"] for merge in second.merges] == [merge["step"] for merge in whole.merges]
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    ("arguments", "total", "expected"),
    [
        ({"every": "10sp"}, "106ba", [3, 5, 6]),  # 4 samples a step
        ({"every": "25tok"}, "106ba", [3, 5, 6]),  # 10 tokens a step
        ({"every": "1ep"}, "106ba", [3, 6]),  # 3 steps an epoch
        ({"p": 0.5}, "1060tok", [3, 6]),
        ({"p": 0.5}, "424sp", [3, 6]),
        ({"every": "0.4dur"}, "106ba", [3, 5, 6]),
    ],
)
def test_progress_is_counted_in_any_unit(arguments: dict[str, Any], total: str, expected: list[int]) -> None:
    model, averager = Regression(), Averager(**arguments)
    averager.start(model, Duration.parse(total), 3, {"ba": 100, "sp": 400, "tok": 1000})  # after another training
    merged = [
        step
        for step in range(1, 7)
        if averager.step({"ba": 100 + step, "sp": 400 + 4 * step, "tok": 1000 + 10 * step}, last=step == 6)
    ]
    assert merged == expected
    assert [merge["step"] for merge in averager.merges] == [100 + step for step in expected]


def test_what_is_missing_is_an_error() -> None:
    model = Regression()
    with pytest.raises(ValueError, match="cannot determine when an epoch ends"):
        Averager(model, 10, every="1ep")
    with pytest.raises(ValueError, match=r"cannot use a training of 0\.5dur"):
        Averager(model, Duration.parse("0.5dur"), p=0.5)
    averager = Averager(model, 10, every="5tok")
    with pytest.raises(ValueError, match="counted in tok, so step"):
        averager.step()
    with pytest.raises(ValueError, match="pass model and steps together"):
        Averager(model, p=0.5)


def test_a_weight_that_is_no_number_is_an_error_that_names_it() -> None:
    model = Regression()
    averager = Averager(model, 1, p=1)
    with torch.no_grad():
        model.net[2].bias.fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"net\.2\.bias"):
        averager.step()
