"""SFA as a callback of transformers' Trainer, and of everything that is built on it."""

import inspect
import logging
import math
from typing import Any, Literal

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments
from transformers.trainer_callback import CallbackHandler, ExportableState

from sfa.anchor import Anchor
from sfa.anchor_source import PASS, read
from sfa.averager import Averager, Merge
from sfa.live import live

log = logging.getLogger(__name__)


class SFACallback(TrainerCallback, ExportableState):
    """Averages the weights with those of the previous task while the model trains on the next one (Algorithm 1).

    Merges are done at the end of an optimizer's step, before the Trainer logs, evaluates and saves this step, and at
    the training's last step; substeps of gradient accumulation do not count. Every call of ``train()`` is a training
    of its own. Works in one process and under DDP, FSDP1, FSDP2 and DeepSpeed ZeRO-1, 2 and 3, for full fine-tuning and
    adapters. β and the distance from θ_o go to the Trainer's loggers as ``sfa/beta``, ``sfa/l2_before`` and
    ``sfa/l2_after``.

    A resumed training goes on where it was. θ_o is in no checkpoint: it is read from ``anchor`` or, without one, taken
    from the model as it was built or from its folder, and compared with the θ_o that the checkpoint was written with.

    With ``load_best_model_at_end`` the best checkpoint is returned as it was saved, and a warning says if it was not
    saved right after a merge. Scores of such steps are those of weights that were not averaged yet.

    Args:
        p: averaging frequency, the fraction of the training between merges, in (0, 1]. ``p=1`` merges once, at the
            end, which is WiSE-FT.
        every: the same as a duration, such as ``"50ba"``, ``"1ep"`` or, with ``include_num_input_tokens_seen``,
            ``"1000000tok"``; used instead of ``p``.
        beta: weight β of the old weights θ_o, in [0, 1].
        anchor: θ_o: a folder of a model or of adapters, or a name on the hub; defaults to the weights at the start.
        anchor_device: ``"cpu"`` keeps θ_o in (pinned) host memory, ``"device"`` keeps it on the parameters' device.
        merge: of LoRA, ``"factors"`` averages A and B, each for itself, ``"product"`` the products B·A.
        beta_end: β of the last merge, with linear steps from ``beta`` over the merges; defaults to ``beta``.

    Attributes:
        averager: the averager, with the merges since the start.

    Raises:
        ValueError: a value is out of range; at the start of the training, the weights cannot be averaged, θ_o does not
            fit the model, or it is not the one that the checkpoint of a resumed training was written with.

    Examples:
        >>> trainer = Trainer(model, args, train_dataset=law, callbacks=[SFACallback(p=0.25, beta=0.5)])
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
        self._arguments = {"p": p, "every": every, "beta": beta, "anchor": anchor}
        self._arguments |= {"anchor_device": anchor_device, "merge": merge, "beta_end": beta_end}
        self.averager = Averager(None, None, p, every, beta, anchor, anchor_device, merge, beta_end=beta_end)
        self._built: Anchor | None = None  # the weights before a checkpoint is loaded
        self._handler: CallbackHandler | None = None
        self._epoch_ended = False

    def state(self) -> dict[str, Any]:
        """What the Trainer stores in ``trainer_state.json``."""
        return {"args": self._arguments, "attributes": {"saved": self.averager.state_dict()}}

    def on_init_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        is_sharded = AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if self.averager.source is None and model is not None and not is_sharded:
            self._built = Anchor(live(model).masters(), self.averager.anchor_device)

    def on_train_begin(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        self._handler = _handler()
        if self._handler is not None:  # last, so that a stop that another callback asks for is known
            self._handler.callbacks = [each for each in self._handler.callbacks if each is not self] + [self]
        built, self._built = self._built, None  # never hold two copies
        if state.global_step == 0:
            built = None
        if self.averager.interval.unit == "tok" and args.include_num_input_tokens_seen == "no":
            raise ValueError("merges are counted in tokens: set include_num_input_tokens_seen")
        epoch = _steps_of_an_epoch(args, train_dataloader)
        start = {"epoch": epoch, "optimizer": optimizer}
        if state.global_step == 0:
            self.averager.start(model, state.max_steps, **start)
        else:
            self._resume(args, state, model, built, start)
        stored: Any = state.stateful_callbacks
        stored[type(self).__name__] = self.state()

    def _resume(
        self,
        args: Arguments,
        state: TrainerState,
        model: nn.Module,
        built: Anchor | None,
        start: dict[str, Any],
    ) -> None:
        """Restores the merges, which follow from the step, and θ_o."""
        callbacks: Any = state.stateful_callbacks
        stored = callbacks.get(type(self).__name__, {})
        saved = stored.get("attributes", {}).get("saved") if isinstance(stored, dict) else None
        identity = saved["identity"] if saved is not None else None
        if self.averager.source is None and identity is None:
            raise ValueError(f"the checkpoint was written without SFA, so that θ_o is not known. {PASS}")
        weights = live(model, start["optimizer"])
        is_sharded = not weights.whole
        if self.averager.source is None and (built is None or is_sharded):
            try:
                source = getattr(getattr(model, "config", None), "_name_or_path", "")
                built = read(source, model, weights, self.averager.anchor_device)
            except (OSError, ValueError) as error:
                raise ValueError(f"θ_o cannot be had from the model that this training started from. {PASS}") from error
        self.averager.start(model, state.max_steps, anchor=built, **start)
        progress = _progress(args, state)
        merges = saved["merges"] if saved is not None else []
        self.averager.load_state_dict(
            {
                "origin": dict.fromkeys(progress, 0),
                "seen": progress[self.averager.unit],
                "merges": merges,
                "identity": identity,
            }
        )

    def on_epoch_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._epoch_ended = False

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = control.should_training_stop
        self._record(self.averager.step(_progress(args, state), last), args, state, control)

    def on_epoch_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The training may have been stopped after its last step was merged, evaluated and saved, or not: it is merged
        now, and then evaluated and saved again."""
        self._epoch_ended = True
        if control.should_training_stop and self._is_unmerged(state):
            self._record(self.averager.merge(state.global_step), args, state, control)
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
            control.should_save = control.should_save or args.save_strategy != "no"
        return control

    def on_evaluate(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """An evaluation after an epoch stopped the training: only its save follows."""
        if self._epoch_ended and control.should_training_stop and self._is_unmerged(state):
            self._record(self.averager.merge(state.global_step), args, state, control)

    def on_train_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        merged = [merge["step"] for merge in self.averager.merges]
        best = state.best_global_step if args.load_best_model_at_end and state.best_model_checkpoint else None
        if best is None and self._is_unmerged(state):
            log.warning("The training ended unexpectedly: SFA's final merge is in the model, but in no checkpoint.")
            self._record(self.averager.merge(state.global_step), args, state, control)
        elif best is not None and best not in merged:
            log.warning(
                "The best model, of step %d, was not saved right after a merge (%s): it is not averaged as it would be "
                "at the end. Evaluate and save at the merges to choose among averaged models.",
                best,
                ", ".join(map(str, merged)),
            )
        self.averager.stop()

    def _is_unmerged(self, state: TrainerState) -> bool:
        merges = self.averager.merges
        is_training = self.averager.anchor is not None and state.global_step > 0
        return is_training and (not merges or merges[-1]["step"] != state.global_step)

    def _record(self, merge: Merge | None, args: Arguments, state: TrainerState, control: TrainerControl) -> None:
        if merge is None:
            return
        logs: dict[str, float] = {f"sfa/{name}": merge[name] for name in ("l2_before", "l2_after", "beta", "seconds")}
        if self.averager.lora_error is not None:
            logs["sfa/lora_error"] = self.averager.lora_error
        state.log_history.append({**logs, "epoch": float(state.epoch or 0), "step": state.global_step})
        if self._handler is not None:
            self._handler.call_event("on_log", args, state, control, logs=logs)


def _progress(args: Arguments, state: TrainerState) -> dict[str, int]:
    step = state.global_step
    samples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {"ba": step, "sp": step * samples, "tok": int(state.num_input_tokens_seen)}


def _steps_of_an_epoch(args: Arguments, dataloader: Any) -> int | None:
    try:
        return max(math.ceil(len(dataloader) / args.gradient_accumulation_steps), 1)
    except TypeError:  # a stream
        return None


def _handler() -> CallbackHandler | None:
    """The handler that is calling. A Trainer passes itself to no callback, and only the handler reaches its loggers."""
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), CallbackHandler):
        frame = frame.f_back
    return frame.f_locals["self"] if frame is not None else None
