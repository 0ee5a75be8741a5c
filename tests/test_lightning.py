"""Lightning's Trainer with SFA's callback ends where Algorithm 1 in a plain loop ends."""

import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from sfa import merge_steps
from sfa.lightning import SFACallback
from tests.tiny import ROWS, P, Row, T, algorithm_1, assert_close, loss, model, optimizer, rows, weights
from tests.trainer_cases import Cell, cells


class Module(lightning.LightningModule):
    def __init__(self, network: torch.nn.Module, kind: str = "sgd"):
        super().__init__()
        self.network = network
        self.kind = kind

    def training_step(self, batch: list[Row], number: int) -> Tensor:
        return loss(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer((p for p in self.parameters() if p.requires_grad), self.kind)


class Batches(DataLoader[Any]):
    """Lightning resumes within an epoch only with a loader that knows where it was."""

    seen = 0

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in islice(super().__iter__(), self.seen, None):
            self.seen += 1
            yield batch
        self.seen = 0


class StopAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def fit(
    network: torch.nn.Module,
    folder: Path,
    callbacks: list[Callback],
    kind: str = "sgd",
    accumulation: int = 1,
    checkpoint: Path | None = None,
    ranks: int = 1,
    **more: Any,
) -> lightning.Trainer:
    settings: dict[str, Any] = {"max_steps": T, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings["use_distributed_sampler"] = False
    settings |= {
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    }
    warnings.filterwarnings("ignore", module="lightning")
    trainer = lightning.Trainer(
        default_root_dir=folder, callbacks=callbacks, accumulate_grad_batches=accumulation, **{**settings, **more}
    )
    mine = [number for number in range(T * ROWS) if number // (ROWS // ranks) % ranks == trainer.global_rank]
    batches = Batches(Subset(rows(), mine), batch_size=ROWS // accumulation // ranks, collate_fn=list)  # type: ignore[arg-type]
    trainer.fit(Module(network, kind), batches, ckpt_path=checkpoint, weights_only=False)
    return trainer


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    ("p", "beta"), [(1, 0.25), pytest.param(0.3, 0.5, marks=cells(Cell("Lightning", "one process")))]
)
def test_it_is_algorithm_1(p: float, beta: float, accumulation: int, kind: str, tmp_path: Path) -> None:
    network, callback = model(), SFACallback(p=p, beta=beta)
    trainer = fit(network, tmp_path, [callback], kind, accumulation)
    assert [merge["step"] for merge in callback.averager.merges] == merge_steps(T, p)
    assert_close(weights(network), algorithm_1(model(), p, beta, kind, accumulation))
    assert trainer.logged_metrics["sfa/l2_before"] == pytest.approx(callback.averager.merges[-1]["l2_before"])


@pytest.mark.parametrize(
    ("dtype", "lora"),
    [
        pytest.param(torch.bfloat16, False, marks=cells(Cell("Lightning", "one process", precision="bf16"))),
        pytest.param(torch.float32, True, marks=cells(Cell("Lightning", "one process", "LoRA"))),
        pytest.param(torch.bfloat16, True, marks=cells(Cell("Lightning", "one process", "LoRA", "bf16"))),
    ],
)
def test_precision_and_adapters(dtype: torch.dtype, lora: bool, tmp_path: Path) -> None:
    network = model(dtype=dtype, lora=lora)
    fit(network, tmp_path, [SFACallback(p=P)])
    assert_close(weights(network), algorithm_1(model(lora=lora)), 1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("at", [2, 3, 4])
def test_interrupted_before_at_and_after_a_merge_and_resumed_is_bitwise_the_same(at: int, tmp_path: Path) -> None:
    whole, again = model(), model()
    keeper = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(whole, tmp_path, [SFACallback(p=P), keeper])
    checkpoint, callback = tmp_path / f"step={at}.ckpt", SFACallback(p=P)
    fit(again, tmp_path, [callback], checkpoint=checkpoint)
    assert [merge["step"] for merge in callback.averager.merges] == merge_steps(T, P)
    assert_close(weights(again), weights(whole), 0)
    with pytest.raises(ValueError, match="is not the one"):
        fit(model(seed=3), tmp_path, [SFACallback(p=P)], checkpoint=checkpoint)


def test_a_beta_that_falls_falls_on_after_an_interruption(tmp_path: Path) -> None:
    whole, again = model(), model()
    keeper = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(whole, tmp_path, [SFACallback(p=P, beta=0.75, beta_end=0.25), keeper])
    callback = SFACallback(p=P, beta=0.75, beta_end=0.25)
    fit(again, tmp_path, [callback], checkpoint=tmp_path / "step=4.ckpt")
    betas = [merge["beta"] for merge in callback.averager.merges]
    assert betas == pytest.approx([9 / 12, 7 / 12, 5 / 12, 3 / 12])
    assert_close(weights(again), weights(whole), 0)


def test_a_training_that_is_stopped_is_merged_before_its_last_checkpoint(tmp_path: Path) -> None:
    network, callback = model(), SFACallback(p=P)
    keeper = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    fit(network, tmp_path, [callback, StopAt(5), keeper], max_steps=-1, max_epochs=1)
    assert [merge["step"] for merge in callback.averager.merges] == [3, 5]
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert_close({name.removeprefix("network."): tensor for name, tensor in state.items()}, weights(network), 0)


def test_units_that_lightning_does_not_count_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="counts steps"):
        SFACallback(every="100tok")
    with pytest.raises(ValueError, match="how long"):
        fit(model(), tmp_path, [SFACallback(p=P)], max_steps=-1, max_epochs=-1)
