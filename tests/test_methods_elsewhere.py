"""Methods that act during training on two ranks, on images, and what they refuse."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from sfa.config import ConfigError, load
from tests import COMPOSER, small
from tests.small import QUICKSTART

ROOT = Path(__file__).parent.parent
MNIST = str(ROOT / "yamls" / "mnist.yaml")
SMALL = [*small.SMALL, "train.max_duration=6ba", "eval.limit=4", "eval.tasks=[returns]"]
SMALL += ["train.optimizer=sgd", "train.momentum=0.9", "train.lr=0.5", "tasks=[arithmetic,returns]"]
SMALL += ["der.beta=0.5", "der.buffer=4"]
FORMS = {"lwf": "ddp", "der": "ddp", "agem": "fsdp2"}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    stage = json.loads((folder / name / "results.json").read_text())["stages"][-1]["fingerprint"]
    return load_file(folder / "stages" / stage / "model" / "model.safetensors")


def test_two_ranks_make_the_models_of_one(tmp_path: Path) -> None:
    """With SGD, which would show gradients that are off by a factor, and steps so large that gradients conflict."""

    def arguments(folder: str, method: str) -> list[str]:
        more = [f"method={method}", f"name={method}", f"parallelism={FORMS.get(method, 'ddp')}"]
        return [QUICKSTART, *SMALL, f"save_folder={tmp_path / folder}", *more]

    for method in ("sequential", *FORMS):
        assert train.main(arguments("one", method)) == 0
    (tmp_path / "runs.json").write_text(json.dumps([arguments("two", method) for method in FORMS]))
    command = [COMPOSER, "-n", "2", "-m", "tests.run_all", str(tmp_path / "runs.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    plain = weights(tmp_path / "one", "sequential")
    for method in FORMS:
        expected = weights(tmp_path / "one", method)
        for name, weight in weights(tmp_path / "two", method).items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5, msg=f"{method} {name}")
        assert max(float((expected[name] - plain[name]).abs().max()) for name in expected) > 0.01


def test_images(tmp_path: Path) -> None:
    small = ["train.max_duration=3ba", "eval.limit=20", f"save_folder={tmp_path}"]
    for method in ("lwf", "der"):
        assert train.main([MNIST, *small, f"method={method}", f"name={method}"]) == 0
    ends = [weights(tmp_path, method)["classifier.weight"] for method in ("lwf", "der")]
    assert all(not torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.parametrize("method", ["o_lora", "osf", "sdft"])
def test_methods_for_text_refuse_images(method: str) -> None:
    with pytest.raises(ConfigError, match=f"method: {method} is only for text, and the tasks are images"):
        load(MNIST, [f"method={method}"])


@pytest.mark.parametrize("method", ["ema", "bema", "lwf", "o_lora", "osf", "sdft"])
def test_methods_that_need_whole_weights_refuse_shards(method: str) -> None:
    with pytest.raises(ConfigError, match=f"parallelism: must not be fsdp2, as {method}"):
        load(QUICKSTART, [f"method={method}", "parallelism=fsdp2"])
