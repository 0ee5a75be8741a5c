"""SFA in trainers built on transformers', and on quantized bases."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sfa import merge_steps
from tests import peers
from tests.tiny import P, T, algorithm_1, assert_close, model, weights
from tests.tiny_trainer import steps, trainer
from tests.trainer_cases import Cell, cells


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("qlora")
    peers.run(["-m", "tests.qlora_worker", str(folder)])
    return dict(json.loads((folder / "record.json").read_text()))


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        pytest.param("fp32", 1e-6, marks=cells(Cell("Trainer", "one process", "QLoRA"))),
        pytest.param("bf16", 4e-3, marks=cells(Cell("Trainer", "one process", "QLoRA", "bf16"))),
    ],
)
def test_adapters_on_four_bits_are_merged_and_the_base_is_not(
    precision: str, tolerance: float, quantized: dict[str, Any]
) -> None:
    found = quantized[precision]
    assert found["merges"] == merge_steps(T, P)
    assert found["error"] < tolerance
    assert found["packed"] == 7 and found["untouched"]  # all linear layers of the one layer


@pytest.mark.parametrize("given", [pytest.param({"sfa_p": P}, marks=cells(Cell("axolotl", "one process"))), {}])
def test_axolotls_own_plugin_manager_finds_the_callback(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but axolotl's training itself, which needs more than can be installed beside the tests."""
    monkeypatch.syspath_prepend(str(peers.PEERS))
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault

    manager = PluginManager.get_instance()
    manager.plugins.clear()
    manager.register("sfa.axolotl.SFAPlugin")
    (arguments,) = manager.get_input_args()
    module, _, name = arguments.rpartition(".")
    validated = getattr(sys.modules[module], name)(**given).model_dump()  # as axolotl does with its own keys
    network = model()
    callbacks = manager.add_callbacks_pre_trainer(DictDefault(validated), network)
    assert len(callbacks) == len(given)
    if given:
        trainer(network, tmp_path, callbacks).train()
        assert_close(weights(network), algorithm_1(model()))
    (callback,) = manager.add_callbacks_pre_trainer(DictDefault({"sfa_p": 0.25, "sfa_beta_end": 0.1}), network)
    assert callback.averager.weighting.end == 0.1


def test_llamafactory_is_started_with_the_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its documented entry point, ``run_exp(args=None, callbacks=None)``, which reads sys.argv."""
    from sfa import llamafactory

    received: dict[str, Any] = {}

    def run_exp(args: Any = None, callbacks: Any = None) -> None:
        received.update(argv=sys.argv[1:], callbacks=callbacks)

    tuner = ModuleType("llamafactory.train.tuner")
    tuner.run_exp = run_exp  # type: ignore[attr-defined]
    for name in ("llamafactory", "llamafactory.train"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "llamafactory.train.tuner", tuner)
    monkeypatch.setattr(sys, "argv", ["sfa.llamafactory"])
    llamafactory.main(["train.yaml", "--sfa-p", "0.3", "--sfa-beta-end", "0.1"])
    assert received["callbacks"][0].averager.weighting.end == 0.1
    llamafactory.main(["train.yaml", "--sfa-p", "0.3", "lora_rank=8"])
    assert received["argv"] == ["train.yaml", "lora_rank=8"]
    network, (callback,) = model(), received["callbacks"]
    trainer(network, tmp_path, [callback]).train()
    assert steps(callback) == merge_steps(T, P)
    assert_close(weights(network), algorithm_1(model()))
