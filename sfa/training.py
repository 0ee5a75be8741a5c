"""Trains one task from its parent's weights, with a Composer Trainer of its own."""

import atexit
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.algorithms import GradientClipping
from composer.loggers import FileLogger, LoggerDestination, MLFlowLogger, TensorboardLogger, WandBLogger
from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    LinearWithWarmupScheduler,
)
from composer.utils import dist
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import _get_fqns

from sfa import checkpoints as saved
from sfa import machine, methods, models, weights
from sfa.algorithm import SFA
from sfa.callbacks import ProgressBar, Recorder, Stopper, bare_model, checkpoint_saver
from sfa.composer_model import StageModel
from sfa.config import ConfigError, too_often
from sfa.context import Context
from sfa.data import ImageTask, Task
from sfa.data.batches import Steps, Transform, data_spec, example_count, keep, step_count
from sfa.data.packing import Packed
from sfa.data.prepare import preparer
from sfa.finite import Finite
from sfa.parallel import average_gradients_on_gloo, parallelism_config
from sfa.plan import Stage
from sfa.schedule import exact_fraction, in_steps
from sfa.schema import Config, Rehearsal, SFABlock, Train


def train(stage: Stage, context: Context) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains ``stage`` from its parent's model and exports the result to its folder. All ranks call it.

    It goes on from the newest checkpoint in the folder, if there is one.

    Returns:
        What the stage's manifest says of the training, and the scores taken during it, by ``step``.

    Raises:
        ConfigError: the training would have no step, or none between two merges.
        Interrupted: a signal stopped it, after a checkpoint.
        NotFinite: a loss, gradient or merged weight was infinite or not a number; checkpoints are from before.
    """
    assert stage.train is not None and stage.parent is not None
    settings, config, console = stage.train, context.config, context.console
    parent, folder = context.folder(stage.parent), context.folder(stage)
    processor = models.read_processor(parent / "model")
    machine.reset_peak()
    bare = models.read_model(parent / "model")
    data = preparer(processor, models.is_encoder_decoder(bare.config), settings.seq_len, config.model.template)
    seed, cache = config.seed, config.save_folder / "data"
    packed, changed = data.training(stage.tasks, seed, cache)
    buffer: list[Packed] = []
    if isinstance(stage.block, Rehearsal):
        for past in stage.past:
            (all_of_it,), _ = data.training(past.tasks, seed, cache)
            buffer.append(keep(all_of_it, stage.block.buffer, seed))
    if changed:
        console.print(f"{stage.label}: {changed:,} {data.changed}")
    batch, sequences = settings.global_batch_size, sum(len(part["labels"]) for part in packed)
    total, epoch = step_count(settings.max_duration, sequences, batch, settings.seq_len), sequences / batch
    _check_steps(stage, total, sequences, batch)

    fraction = stage.block.fraction if isinstance(stage.block, Rehearsal) else 0.0
    steps = Steps(packed, total, batch, seed, buffer, fraction, _augmentation(stage, seed))

    precision, cpu_bf16 = _precision(settings)
    model = StageModel(bare, processor, cpu_bf16)
    if settings.activation_checkpointing:
        bare.gradient_checkpointing_enable({"use_reentrant": False})

    def examples(task: Task, count: int) -> list[dict[str, Tensor]]:
        return data.examples(task, count, seed)

    algorithms = methods.algorithms(stage, context, total, epoch, examples)
    sfa = next((algorithm for algorithm in algorithms if isinstance(algorithm, SFA)), None)
    algorithms.append(Finite())
    if settings.max_grad_norm is not None:
        algorithms.append(GradientClipping("norm", settings.max_grad_norm))
    merges = methods.merge_points(stage, total, epoch)
    interval = in_steps(config.eval.interval, total, epoch) if config.eval.interval else None
    seen = context.seen(stage)
    recorder = Recorder(lambda live, names: context.evaluator(live, processor, names), seen, interval, total)
    stopper = Stopper()
    checkpoints = folder / "checkpoints"
    saver = checkpoint_saver(str(checkpoints), in_steps(settings.save_interval, total, epoch), total, stopper)
    trainer = saved.resumed(
        model=model,
        train_dataloader=data_spec(steps, batch, settings.workers),
        max_duration=f"{total}ba",
        optimizers=_optimizer(model, settings),
        schedulers=_scheduler(settings, total, epoch),
        algorithms=algorithms,
        callbacks=[ProgressBar(_title(stage, config), total, merges, console), recorder, saver, stopper],
        loggers=_loggers(config, config.save_folder / config.name / "logs" / stage.label),
        seed=config.seed,
        precision=precision,
        device_train_microbatch_size=settings.microbatch_size or batch // dist.get_world_size(),
        parallelism_config=parallelism_config(config.parallelism, config.checkpoint),
        load_path=newest_checkpoint(checkpoints, console),
        compile_config={} if settings.compile else None,
        run_name=f"{config.name}-{stage.label}",
        progress_bar=False,
        log_to_console=False,
    )
    try:
        average_gradients_on_gloo(trainer.state.model)
        trainer.fit()
        weights.save_model(bare_model(trainer.state), folder / "model")
        tokens = int(trainer.state.timestamp.token.value)
    finally:
        trainer.close()
        forget(trainer)
    record: dict[str, Any] = {
        "steps": total,
        "merge_steps": [int(merge["step"]) for merge in sfa.merges] if sfa else [],
        "merges": sfa.merges if sfa else [],
        "seconds": round(recorder.seconds, 3),
        "tokens": tokens,
        "peak_bytes": machine.peak(),
        "stored_examples": sum(example_count(part) for part in buffer),
        "stored_bytes": sum(array.nbytes for part in buffer for array in part.values()),
        "changed": changed,
    }
    if dist.get_global_rank() == 0:
        processor.save_pretrained(folder / "model")
        record["l2_from_anchor"] = weights.distance(folder / "model", parent / "model")
    return record, recorder.rows


def _check_steps(stage: Stage, total: int, sequences: int, batch: int) -> None:
    """What can be told only now that the data are read.

    Raises:
        ConfigError: the training has no step, or none between two merges.
    """
    assert stage.train is not None
    errors = []
    if total < 1:
        errors.append(
            f"train.max_duration: {stage.train.max_duration} of {stage.label}'s {sequences} sequences is less than one "
            f"step of {batch}"
        )
    elif isinstance(stage.block, SFABlock) and stage.block.p is not None and exact_fraction(stage.block.p) * total < 1:
        errors.append(too_often(stage.block.p, total))
    if errors:
        raise ConfigError(stage.label, errors)


def forget(trainer: Trainer) -> None:
    """Lets go of a closed trainer's model, optimizer and anchor, which else stay in memory until the process ends:
    Composer 0.32 keeps what it would close at exit, torch 2.7 every model whose state it named."""
    atexit.unregister(trainer.engine._close)
    _get_fqns.cache_clear()


def _augmentation(stage: Stage, seed: int) -> Transform | None:
    if not any(isinstance(task, ImageTask) and task.augment for task in stage.tasks):
        return None
    from sfa.data.augment import Augment

    return Augment(seed)


def _optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if train.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    fused = torch.cuda.is_available()
    return torch.optim.AdamW(trained, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=fused)


def _scheduler(train: Train, total: int, epoch: float) -> ComposerScheduler:
    warmup = f"{math.ceil(in_steps(train.warmup, total, epoch)) if train.warmup else 0}ba"
    if train.schedule == "constant":
        return ConstantWithWarmupScheduler(t_warmup=warmup)
    if train.schedule == "linear":
        return LinearWithWarmupScheduler(t_warmup=warmup, alpha_f=0.0)
    return CosineAnnealingWithWarmupScheduler(t_warmup=warmup, alpha_f=0.0)


def _precision(train: Train) -> tuple[str, bool]:
    """Composer's precision, and whether the model itself computes in bfloat16 on CPU, which Composer refuses."""
    on_gpu = torch.cuda.is_available()
    if train.precision == "fp32" or (train.precision == "auto" and not on_gpu):
        return "fp32", False
    return ("amp_bf16", False) if on_gpu else ("fp32", True)


def _loggers(config: Config, folder: Path) -> list[LoggerDestination]:
    """The loggers that the config names, with its options over our defaults."""
    kinds: dict[str, tuple[Callable[..., LoggerDestination], dict[str, Any]]] = {
        "tensorboard": (TensorboardLogger, {"log_dir": str(folder)}),
        "file": (FileLogger, {"filename": str(folder / "log.txt"), "overwrite": True, "remote_file_name": None}),
        "wandb": (WandBLogger, {"project": "sfa", "group": config.name}),
        "mlflow": (MLFlowLogger, {"experiment_name": config.name}),
    }
    return [kinds[name][0](**{**kinds[name][1], **options}) for name, options in config.loggers.items()]


def _title(stage: Stage, config: Config) -> str:
    names = [task.name for task in config.tasks]
    position = f"[{names.index(stage.label) + 1}/{len(names)}] " if stage.label in names else ""
    return f"{position}{stage.label}" + (f" ({stage.method})" if stage.method != stage.label else "")


def newest_checkpoint(folder: Path, console: Console) -> str | None:
    """The newest whole checkpoint, to go on from. One that a process died over while writing is told and left out.

    Raises:
        ForeignCheckpoint: one holds something that no checkpoint of this suite does.
    """
    for checkpoint in saved.found(folder):
        if saved.is_whole(checkpoint):
            return str(checkpoint)
        console.print(f"{checkpoint} is torn or damaged and is not used")
    return None
