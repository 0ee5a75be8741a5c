"""A kind of evaluation is one file: its names, its keys, its direction and its scores come from there alone."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from eval import available, kind, owner
from eval.evaluator import Evaluations
from eval.kind import KINDS, Kind, RankResult, Settings, mean_score
from sfa.config import ConfigError, load
from sfa.data import Task, registered
from sfa.data.glyphs import Glyphs
from sfa.records import Score
from sfa.store import fingerprint
from tests.test_config import GOOD, write


@pytest.fixture
def size() -> Iterator[type[Kind]]:
    class Size(Kind):
        """``<task>_size``: the mean weight of a model, as often as asked for."""

        name: ClassVar[str] = "size"
        lower_is_better: ClassVar[bool] = True

        @classmethod
        def owned(cls, stream: Sequence[Task]) -> list[str]:
            return [f"{task.name}_size" for task in stream]

        def key(self, name: str) -> str:
            return fingerprint(["size", name])

        def load(self, name: str, model: Any, processor: Any) -> None: ...

        def count(self, name: str) -> int:
            return 3

        def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
            weight = float(torch.cat([p.flatten() for p in model.parameters()]).mean())
            return {name: RankResult(np.full((len(wanted), 1), weight)) for name, wanted in rows.items()}

        def score(self, name: str, results: Sequence[RankResult]) -> Score:
            return mean_score(name, "mean", np.concatenate([result.values for result in results])[:, 0])

    yield Size
    del KINDS["size"]


def test_a_new_kind_is_known_wherever_evaluations_are(size: type[Kind], tmp_path: Any) -> None:
    stream = [registered("arithmetic")]
    assert "arithmetic_size" in available(stream) and owner("arithmetic_size", stream) is size
    config = load(write(tmp_path, GOOD), ["eval.tasks=[arithmetic_size]"], available)
    evaluations = Evaluations(config.evaluations(), config.tasks, Settings())
    model = nn.Linear(2, 1)
    (score,) = evaluations(model, None)
    expected = float(torch.cat([p.flatten() for p in model.parameters()]).mean())
    assert score == {
        "evaluation": "arithmetic_size",
        "metric": "mean",
        "value": pytest.approx(expected),
        "stderr": pytest.approx(0, abs=1e-9),
        "n": 3,
        "lower_is_better": True,
    }


def test_one_run_mixes_kinds() -> None:
    evaluations = Evaluations(["gsm8k", "arithmetic_loss", "arithmetic"], [registered("arithmetic")], Settings())
    assert [evaluations.kinds[name].name for name in evaluations.names] == ["lm_eval", "loss", "lm_eval"]
    assert evaluations.kinds["gsm8k"] is evaluations.kinds["arithmetic"]
    assert [evaluations.lower_is_better(name) for name in ("gsm8k", "arithmetic_loss", "law_loss")] == [
        False,
        True,
        True,
    ]


def test_kinds_follow_what_tasks_declare() -> None:
    images = [Glyphs(name="mine_loss", labels=(1, 2))]
    assert available(images) == ["mine_loss_accuracy"]
    kind = owner("mine_loss_accuracy", images)
    assert kind is not None and kind.name == "accuracy"
    assert not {"digits_loss", "glyphs_accuracy"} & set(available()) and "law_loss" in available()


def test_the_kind_of_a_name_is_no_matter_of_its_ending(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="'nothing_loss' is not an evaluation"):
        load(write(tmp_path, GOOD), ["eval.tasks=[nothing_loss]"], available)
    with pytest.raises(KeyError, match="no kind of evaluation owns nothing_loss"):
        Evaluations(["nothing_loss"], [], Settings())


def test_a_backend_that_a_kind_does_not_know_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="loss can only be scored with --backend hf"):
        KINDS["loss"](["arithmetic_loss"], [], kind.Settings()).drive(None, None)
