"""The average of a run's own weights against Composer's EMA, and resumed."""

from pathlib import Path

import composer.algorithms
import pytest
import torch

from sfa.trainers.ema import EMA
from tests.toy import Regression, saver_every_step, trainer, weights

STEPS = 9


@pytest.mark.parametrize("half_life", [1, 3, 50])
def test_the_last_weights_are_composers_average(half_life: int) -> None:
    theirs = composer.algorithms.EMA(half_life=f"{half_life}ba")
    fit = trainer(Regression(), STEPS, [theirs])
    fit.fit()
    fit.close()
    model = Regression()
    ours = trainer(model, STEPS, [EMA(half_life)], max_duration=f"{STEPS}ba")
    ours.fit()
    ours.close()
    assert theirs.ema_model is not None
    for name, expected in theirs.ema_model.named_parameters_dict.items():
        torch.testing.assert_close(weights(model)[name], expected, rtol=0, atol=1e-6)


def test_resumed_at_any_step_it_is_bitwise_the_same(tmp_path: Path) -> None:
    def fitted(**more: object) -> dict[str, torch.Tensor]:
        model = Regression()
        fit = trainer(model, STEPS, [EMA(2.5)], "adamw", max_duration=f"{STEPS}ba", **more)
        fit.fit()
        fit.close()
        return weights(model)

    whole = fitted(callbacks=[saver_every_step(tmp_path, STEPS)])
    for step in (1, 4, 8):
        resumed = fitted(load_path=str(tmp_path / f"ep0-ba{step}.pt"))
        assert all(torch.equal(resumed[name], weight) for name, weight in whole.items()), step
