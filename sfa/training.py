"""Trains one task from its parent's weights, with a Composer Trainer of its own."""

import atexit
import math
from typing import Any

import torch
from composer import Trainer
from composer.algorithms import GradientClipping
from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    LinearWithWarmupScheduler,
)
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import _get_fqns

from sfa import checkpoint_files, checkpoints, loggers, machine, methods, models, weights
from sfa.algorithm import SFA
from sfa.callbacks import ProgressBar, Recorder, Stopper, bare_model, checkpoint_saver
from sfa.composer_model import StageModel
from sfa.config import ConfigError, too_often
from sfa.context import Context
from sfa.data import ImageTask
from sfa.data.batches import Steps, Transform, data_spec, example_count, keep, step_count
from sfa.data.packing import Packed
from sfa.finite import Finite
from sfa.isolation import LENGTH, NotCausal, why_padded
from sfa.kinds import is_encoder_decoder, position_count
from sfa.parallel import average_gradients_on_gloo, parallelism_config
from sfa.plan import Stage, precision
from sfa.pretrained import ModelError
from sfa.records import Cost, TimedScore
from sfa.schedule import exact_fraction, in_steps
from sfa.schema import Config, Rehearsal, SFABlock, Train

CHANGED = {  # what is said of rows that are not used as they are
    "dropped": "rows are longer than {} tokens and were left out",
    "cut": "rows are longer than {} tokens and lost the middle of their prompt",
    "unreadable": "images could not be read and were left out",
}


def train(stage: Stage, context: Context) -> tuple[Cost, list[TimedScore]]:
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
    machine.name_processor()
    machine.reset_peak()
    bare = models.read_model(parent / "model")
    text_decoder = config.classes() is None and not is_encoder_decoder(bare.config)
    padded = _why_padded(bare, processor) if text_decoder else None
    data = context.preparer(settings, processor, bare.config, packs=padded is None)
    seed, cache = config.seed, config.save_folder / "data"
    packed, changed = data.training(stage.tasks, seed, cache)
    buffer: list[Packed] = []
    if isinstance(stage.block, Rehearsal):
        for past in stage.past:
            (all_of_it,), _ = data.training(past.tasks, seed, cache)
            buffer.append(keep(all_of_it, stage.block.buffer, seed))
    for what, count in changed.items():
        if count:
            console.print(f"{stage.label}: {count:,} {CHANGED[what].format(settings.seq_len)}")
    if padded is not None:
        console.print(f"{stage.label}: one example a sequence, padded, not packed: of the model, {padded}")
    batch, sequences = settings.global_batch_size, sum(len(part["labels"]) for part in packed)
    total, epoch = step_count(settings.max_duration, sequences, batch, settings.seq_len), sequences / batch
    _check_steps(stage, total, sequences, batch)

    fraction = stage.block.fraction if isinstance(stage.block, Rehearsal) else 0.0
    steps = Steps(packed, total, batch, seed, buffer, fraction, _augmentation(stage, seed))

    composer_precision, cpu_bf16 = _precision(settings)
    model = StageModel(bare, processor, cpu_bf16)
    if settings.activation_checkpointing:
        bare.gradient_checkpointing_enable({"use_reentrant": False})

    def examples(past: Stage, count: int) -> list[dict[str, Tensor]]:
        assert past.train is not None, "only stages that train have examples"
        return context.preparer(past.train, processor, bare.config).examples(past.tasks[0], count, seed)

    algorithms = methods.algorithms(stage, context, total, epoch, examples)
    sfa = next((algorithm for algorithm in algorithms if isinstance(algorithm, SFA)), None)
    algorithms.append(Finite())
    if settings.max_grad_norm is not None:
        algorithms.append(GradientClipping("norm", settings.max_grad_norm))
    merges = methods.merge_points(stage, total, epoch)
    interval = in_steps(config.eval.interval, total, epoch) if config.eval.interval else None
    seen = context.seen(stage)
    evaluator = context.evaluator
    recorder = Recorder(lambda live, names: evaluator(live, processor, names), evaluator.key, seen, interval, total)
    stopper = Stopper()
    kept = folder / "checkpoints"
    newest = checkpoints.newest_checkpoint(kept, console)
    if newest is not None:
        newest = checkpoints.for_parallelism(newest, config.parallelism)
    saver = checkpoint_saver(str(kept), in_steps(settings.save_interval, total, epoch), total, stopper)
    trainer = checkpoint_files.resumed(
        model=model,
        train_dataloader=data_spec(steps, batch, settings.workers),
        max_duration=f"{total}ba",
        optimizers=_optimizer(model, settings),
        schedulers=_scheduler(settings, total, epoch),
        algorithms=algorithms,
        callbacks=[ProgressBar(_title(stage, config), total, merges, console), recorder, saver, stopper],
        loggers=loggers.make(config, config.save_folder / config.name / "logs" / stage.label),
        seed=config.seed,
        precision=composer_precision,
        device_train_microbatch_size=settings.microbatch_size or batch // dist.get_world_size(),
        parallelism_config=parallelism_config(config.parallelism, checkpoints.kind(newest, config.checkpoint)),
        load_path=str(newest) if newest else None,
        compile_config={} if settings.compile else None,
        run_name=f"{config.name}-{stage.label}",
        progress_bar=False,
        log_to_console=False,
    )
    try:
        checkpoints.write_as(trainer.state, config.checkpoint)
        average_gradients_on_gloo(trainer.state.model)
        trainer.fit()
        weights.save_model(bare_model(trainer.state), folder / "model")
        tokens = int(trainer.state.timestamp.token.value)
    finally:
        trainer.close()
        forget(trainer)
    record: Cost = {
        "steps": total,
        "merge_steps": [int(merge["step"]) for merge in sfa.merges] if sfa else [],
        "merges": sfa.merges if sfa else [],
        "seconds": round(recorder.seconds, 3),
        "tokens": tokens,
        "peak_bytes": machine.peak(),
        "stored_examples": sum(example_count(part) for part in buffer),
        "stored_bytes": sum(array.nbytes for part in buffer for array in part.values()),
        "changed": changed,
        "padded": padded,
    }
    if dist.get_global_rank() == 0:
        processor.save_pretrained(folder / "model")
        record["l2_from_anchor"] = weights.distance(folder / "model", parent / "model")
    return record, recorder.rows


def _why_padded(model: Any, tokenizer: Any) -> str | None:
    """Why a decoder's examples cannot be packed, as rank 0 finds.

    Raises:
        ModelError: the model is no decoder.
    """
    found: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            positions = position_count(model.config) or 2 * LENGTH
            found[0] = why_padded(model, tokenizer, min(LENGTH, positions // 2))
        except NotCausal as error:
            found[1] = str(error)
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise ModelError(found[1])
    return None if found[0] is None else str(found[0])


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
    if precision(train) == "fp32":
        return "fp32", False
    return ("amp_bf16", False) if torch.cuda.is_available() else ("fp32", True)


def _title(stage: Stage, config: Config) -> str:
    names = [task.name for task in config.tasks]
    position = f"[{names.index(stage.label) + 1}/{len(names)}] " if stage.label in names else ""
    return f"{position}{stage.label}" + (f" ({stage.method})" if stage.method != stage.label else "")
