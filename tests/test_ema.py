"""Averages of a run's own weights against Composer's EMA and TRL's BEMA, and resumed."""

from collections.abc import Callable
from pathlib import Path

import composer.algorithms
import pytest
import torch
from composer.core import Algorithm, Callback, State
from composer.loggers import Logger
from transformers import TrainerState
from trl.trainer.callbacks import BEMACallback  # type: ignore[attr-defined]

from sfa.trainers.bema import BEMA
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


class TheirBEMA(Callback):
    """TRL's callback, called by Composer's Trainer."""

    def __init__(self, model: Regression, **settings: float):
        self.theirs = BEMACallback(update_freq=1, **settings)  # type: ignore[arg-type]
        model.config = None  # what it builds its copy from
        self.theirs.on_train_begin(None, TrainerState(), None, model=model)

    def batch_end(self, state: State, logger: Logger) -> None:
        now = TrainerState(global_step=int(state.timestamp.batch.value))
        self.theirs.on_step_end(None, now, None, model=None)


class Configured(Regression):
    """Built from a config, as TRL copies a model."""

    def __init__(self, config: object = None):
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    "settings", [{}, {"ema_power": 0.3, "bias_power": 1.5, "lag": 2, "multiplier": 0.5}, {"ema_power": 0.0}]
)
def test_the_last_weights_are_trls_bias_corrected_average(settings: dict[str, float]) -> None:
    their_model, model = Configured(), Regression()
    theirs = TheirBEMA(their_model, **settings)
    for fit in (
        trainer(their_model, STEPS, [], callbacks=[theirs]),
        trainer(model, STEPS, [BEMA(**settings)], max_duration=f"{STEPS}ba"),
    ):
        fit.fit()
        fit.close()
    for name, expected in weights(theirs.theirs.running_model).items():
        torch.testing.assert_close(weights(model)[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", [lambda: EMA(2.5), BEMA], ids=["ema", "bema"])
def test_resumed_at_any_step_it_is_bitwise_the_same(average: Callable[[], Algorithm], tmp_path: Path) -> None:
    def fitted(**more: object) -> dict[str, torch.Tensor]:
        model = Regression()
        fit = trainer(model, STEPS, [average()], "adamw", max_duration=f"{STEPS}ba", **more)
        fit.fit()
        fit.close()
        return weights(model)

    whole = fitted(callbacks=[saver_every_step(tmp_path, STEPS)])
    for step in (1, 4, 8):
        resumed = fitted(load_path=str(tmp_path / f"ep0-ba{step}.pt"))
        assert all(torch.equal(resumed[name], weight) for name, weight in whole.items()), step
