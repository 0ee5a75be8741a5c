"""SFA as a callback of Lightning's Trainer."""

import logging
import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from sfa.anchor import Anchor
from sfa.averager import Averager, Merge
from sfa.live import live

log = logging.getLogger(__name__)


class SFACallback(Callback):
    """Averages the weights with those of the previous task while the model trains on the next one (Algorithm 1).

    Merges are done at the end of an optimizer's step, before validation and checkpoints of this step; batches whose
    gradients are accumulated do not count. β and the distance from θ_o are logged as ``sfa/beta``, ``sfa/l2_before``
    and ``sfa/l2_after``. A resumed fit goes on where it was; θ_o is read from ``anchor`` or taken from the model as it
    was before the checkpoint was loaded, and compared with the θ_o of the checkpoint.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1].
        every: the same in steps or epochs, such as ``"50ba"`` or ``"1ep"``; used instead of ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor: θ_o: a folder of a model or of adapters, or a name on the hub; defaults to the weights at the start.
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` keeps it on the parameters' device.
        merge: of LoRA, ``"factors"`` averages A and B, each for itself, ``"product"`` the products B·A.
        beta_end: β of the last merge, with linear steps from ``beta`` over the merges; defaults to ``beta``.

    Attributes:
        averager: the averager, with the merges since the start.

    Raises:
        ValueError: a value is out of range; at the start of the fit, the weights cannot be averaged, θ_o does not fit
            the model, or it is not the one of the checkpoint.
    """

    def __init__(
        self,
        p: float | None = None,
        every: str | None = None,
        beta: float = 0.5,
        anchor: str | None = None,
        anchor_device: Literal["cpu", "device"] = "cpu",
        merge: Literal["factors", "product"] = "factors",
        beta_end: float | None = None,
    ):
        self.averager = Averager(None, None, p, every, beta, anchor, anchor_device, merge, beta_end=beta_end)
        if self.averager.interval.unit not in ("dur", "ba", "ep"):
            raise ValueError(f"Lightning counts steps (ba) and epochs (ep), not {every}")
        self._built: Anchor | None = None  # the weights before a checkpoint is loaded
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.averager.source is None and not trainer.strategy.restore_checkpoint_after_setup:
            self._built = Anchor(live(pl_module).masters(), self.averager.anchor_device)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.averager.source is None and trainer.strategy.restore_checkpoint_after_setup:  # it is sharded
            self._built = Anchor(live(_wrapped(trainer)).masters(), self.averager.anchor_device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def state_dict(self) -> dict[str, Any]:
        return self.averager.state_dict()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved, self._saved = self._saved, None
        built, self._built = (self._built if saved else None), None  # never hold two copies
        total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        if math.isinf(total):
            raise ValueError("SFA needs to know how long the training is: give the Trainer max_steps or max_epochs")
        epoch = None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        progress = {"ba": trainer.global_step}
        self.averager.start(_wrapped(trainer), int(total), epoch, progress if not saved else None, built)
        if saved:
            self.averager.load_state_dict(saved)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # While gradients are accumulated the step stays the same, and nothing is due.
        self._record(self.averager.step({"ba": trainer.global_step}), pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and self._is_unmerged(trainer):  # before the checkpoint of this epoch
            self._record(self.averager.merge(trainer.global_step), pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_unmerged(trainer):
            log.warning("The training ended unexpectedly: SFA's final merge is in the model, but in no checkpoint.")
            self.averager.merge(trainer.global_step)
        self.averager.stop()

    def _is_unmerged(self, trainer: Trainer) -> bool:
        merges = self.averager.merges
        return trainer.global_step > 0 and (not merges or merges[-1]["step"] != trainer.global_step)

    def _record(self, merge: Merge | None, module: LightningModule) -> None:
        if merge is not None:
            module.log_dict({f"sfa/{name}": float(merge[name]) for name in ("l2_before", "l2_after", "beta")})


def _wrapped(trainer: Trainer) -> Any:
    """The model as the strategy trains it, such as DeepSpeed's engine."""
    return trainer.strategy.model
