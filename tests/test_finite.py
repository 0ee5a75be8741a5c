"""A loss, gradient, weight or Fisher information that is not finite stops a stage, and says where."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import train
from sfa import SFA
from sfa.errors import NotFinite
from sfa.finite import check
from sfa.fisher import diagonal
from sfa.trainers.finite import Finite
from sfa.weights import distance
from tests.toy import Regression, trainer

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_first_wrong_tensor_is_named(value: float, dtype: torch.dtype) -> None:
    """The largest finite values, whose squares are infinite, are right."""
    tensors = {
        "a": torch.full((3,), torch.finfo(dtype).min, dtype=dtype),
        "scalar": torch.tensor(1.0, dtype=dtype),
        "empty": torch.ones(0, dtype=dtype),
        "b": torch.ones(2, 2, dtype=dtype),
        "c": torch.full((5,), value, dtype=dtype),
    }
    check({name: tensors[name] for name in ("a", "scalar", "empty")}, "weight")
    tensors["b"][1, 1] = value
    with pytest.raises(NotFinite, match="the weight of b is not finite"):
        check(tensors, "weight")


class Broken(Regression):
    """Its loss is multiplied by ``factor`` from step 3 on."""

    factor = math.nan
    count = 0

    def loss(self, outputs: Tensor, batch: tuple[Tensor, Tensor], *args: object, **kwargs: object) -> Tensor:
        self.count += 1
        return super().loss(outputs, batch) * (self.factor if self.count >= 3 else 1.0)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_goes_wrong_changes_no_weight(factor: float) -> None:
    model = Broken()
    model.factor = factor
    fit = trainer(model, 10, [SFA(every="2ba"), Finite()])
    with pytest.raises(NotFinite, match=r"step 3: the loss is (nan|inf), and the gradient of net\.0\.weight"):
        fit.fit()
    fit.close()
    assert int(fit.state.timestamp.batch.value) == 2
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_wrong_fisher_information_and_weights_are_named(tmp_path: Path) -> None:
    x, y = torch.full((1, 6), math.inf), torch.zeros(1, 1)
    with pytest.raises(NotFinite, match=r"Fisher information of net\."):
        diagonal(Regression(), [{0: x, 1: y}], "empirical")  # type: ignore[dict-item]
    for name, value in (("one", 0.0), ("two", math.nan)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.zeros(3), "v": torch.tensor([value])}, tmp_path / name / "model.safetensors")
    with pytest.raises(NotFinite, match="tensor v is not finite"):
        distance(tmp_path / "one", tmp_path / "two")


def test_a_run_that_diverges_ends_with_the_step_and_keeps_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of SGD over 2/(λ·F) diverge; checkpoints from before are whole and finite."""
    arguments = [
        "method=l2",
        "l2.strength=1000",
        "train.lr=0.01",
        "train.max_duration=60ba",
        "train.save_interval=5ba",
        "name=run",
    ]
    assert train.main([MNIST, *arguments, f"save_folder={tmp_path}"]) == 1
    assert "step " in (output := capsys.readouterr().err) and "gradient of" in output and "checkpoint" in output
    finished = [json.loads(file.read_text())["task"] for file in tmp_path.glob("stages/*/manifest.json")]
    assert sorted(finished) == ["base", "even"]
    (checkpoint,) = tmp_path.glob("stages/*/checkpoints/*.pt")
    model = torch.load(checkpoint, weights_only=False)["state"]["model"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())
    for file in tmp_path.glob("stages/*/model/model.safetensors"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(file).values())
