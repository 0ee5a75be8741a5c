"""Trains one task from its parent's weights, with its own Composer Trainer."""

import atexit
import math
from collections import Counter
from fractions import Fraction
from functools import partial

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

from sfa import machine, runs, weights
from sfa.config import ConfigError
from sfa.config.schema import Train
from sfa.data.batches import BatchSchedule, data_spec, example_count, sample_rows
from sfa.data.memory import Memory
from sfa.data.packing import Arrays
from sfa.families import family_of, family_of_tasks
from sfa.methods.base import Fit, Past, Start
from sfa.models import stored
from sfa.parallel import average_gradients_on_gloo, parallelism_config
from sfa.records import Cost, TimedScore
from sfa.schedule import Duration
from sfa.stages import checkpoint_files, checkpoints
from sfa.stages.callbacks import Leftovers, Recorder, Stopper, bare_model, checkpoint_saver
from sfa.stages.composer_model import StageModel
from sfa.stages.context import Context
from sfa.stages.plan import Merge, Stage, Training
from sfa.stages.progress import Position, ProgressBar
from sfa.terminal import say
from sfa.trainers.composer import SFA
from sfa.trainers.finite import Finite


def train(stage: Training, context: Context) -> tuple[Cost, list[TimedScore]]:
    """Trains ``stage`` from its parent's model and exports the result to its folder. All ranks call it.

    It resumes from the newest checkpoint in the folder, if there is one.

    Returns:
        The training's record for the manifest, and the scores taken during it, each with its ``step``.

    Raises:
        ConfigError: the training would have no steps, or none between two merges.
        Interrupted: a signal stopped it, after a checkpoint.
        NotFinite: a loss, gradient or merged weight was infinite or NaN; no checkpoint contains it.
    """
    settings, console = stage.train, context.console
    parent, folder = context.folder(stage.start), context.folder(stage)
    processor = stored.read_processor(parent / "model")
    machine.name_processor()
    machine.reset_peak()
    bare = stored.read_model(parent / "model")
    family = family_of(bare.config)
    padded = family.padding_reason(bare, processor)
    data = context.array_builder(stage, processor, bare.config, packs=padded is None)
    seed, cache = stage.seed, context.save_folder / "data"

    def report(line: str) -> None:
        say("")
        console.print(f"{stage.label}: {line}")

    say(f"preparing {stage.label}")

    is_bf16 = stage.precision == "amp_bf16"
    start = Start(bare, processor, family, stage.layout, settings, is_bf16, seed, folder, report)
    tasks = stage.method.prepared(stage.tasks, start)
    # rows of different tasks share sequences unless their shares are set
    groups = [[task] for task in tasks] if stage.method.is_balanced else [tasks]
    arrays: list[Arrays] = []
    changed = Counter[str]()
    for group in groups:
        packed, counts = data.training(group, seed, cache)
        arrays += packed
        changed.update(counts)
    buffer: list[Arrays] = []
    replay = stage.method.replay()
    if replay is not None:
        for past in stage.past:
            (past_rows,), _ = data.training(_training_of(past).tasks, seed, cache)
            buffer.append(sample_rows(past_rows, replay.buffer, seed))
    for what, count in changed.items():
        if count:
            report(f"{count:,} {family.changes[what].format(settings.seq_len)}")
    if padded is not None:
        report(f"one example per sequence, padded, not packed: {padded}")
    batch, sequences = settings.global_batch_size, sum(len(array["labels"]) for array in arrays)
    total = Duration.parse(settings.max_duration).step_count(sequences, batch, settings.seq_len)
    epoch = Fraction(sequences, batch)
    _check_steps(stage, total, sequences, batch)
    fraction, transform = replay.fraction if replay is not None else 0.0, family.transform(stage.tasks, seed)
    schedule = BatchSchedule(arrays, total, batch, seed, buffer, fraction, transform, stage.method.is_balanced)
    memory = Memory(buffer, batch, seed, transform)

    def examples(past: Training, count: int) -> list[dict[str, Tensor]]:
        return context.array_builder(past, processor, bare.config).examples(past.tasks[0], count, seed)

    past_tasks = [
        Past(context.folder(past), context.model(past), past is stage.start, partial(examples, _training_of(past)))
        for past in stage.past
    ]
    fit = Fit(total, epoch, seed, context.model(stage.start), past_tasks, memory if buffer else None, report)
    has_adapters = hasattr(bare, "peft_config")
    bare = stage.method.tuned(bare, fit)
    composer_precision, cpu_bf16 = _precision(stage.precision)
    model = StageModel(bare, processor, cpu_bf16, omits_frozen=has_adapters)
    if settings.activation_checkpointing:
        bare.gradient_checkpointing_enable({"use_reentrant": False})
    algorithms = stage.method.algorithms(fit)
    sfa = next((algorithm for algorithm in algorithms if isinstance(algorithm, SFA)), None)
    algorithms.append(Finite())
    if settings.max_grad_norm is not None:
        algorithms.append(GradientClipping("norm", settings.max_grad_norm))
    clock = stage.method.clock(total, epoch)
    interval = Duration.parse(context.eval_interval).in_steps(total, epoch) if context.eval_interval else None
    evaluations, evaluator = context.evaluations_during(stage), context.evaluator
    recorder = Recorder(
        lambda live, names: evaluator(live, processor, names), evaluator.key, evaluations, interval, total
    )
    stopper = Stopper(total)
    checkpoint_folder = folder / "checkpoints"
    say("")
    newest = checkpoints.newest_checkpoint(checkpoint_folder, console)
    if newest is not None:
        newest = checkpoints.for_parallelism(newest, context.parallelism)
    saver = checkpoint_saver(
        str(checkpoint_folder), Duration.parse(settings.save_interval).in_steps(total, epoch), total, stopper
    )
    leftovers = Leftovers(saver, checkpoint_files.list_checkpoints(checkpoint_folder))
    progress = ProgressBar(_position(stage, context, total), total, clock, console)
    trainer = checkpoint_files.resume_trainer(
        model=model,
        train_dataloader=data_spec(schedule, batch, settings.workers),
        max_duration=f"{total}ba",
        optimizers=_optimizer(model, settings),
        schedulers=_scheduler(settings, total, epoch),
        algorithms=algorithms,
        callbacks=[progress, recorder, saver, leftovers, stopper],
        loggers=context.make_loggers(runs.run_folder(context.save_folder, context.run) / "logs" / stage.label),
        seed=seed,
        precision=composer_precision,
        device_train_microbatch_size=settings.microbatch_size or batch // dist.get_world_size(),
        parallelism_config=parallelism_config(context.parallelism, checkpoints.kind(newest, context.checkpoint)),
        load_path=str(newest) if newest else None,
        compile_config={} if settings.compile else None,
        run_name=f"{context.run}-{stage.label}",
        progress_bar=False,
        log_to_console=False,
    )
    try:
        checkpoints.write_as(trainer.state, context.checkpoint)
        average_gradients_on_gloo(trainer.state.model)
        trainer.fit()
        _free(trainer, sfa)
        weights.save_model(stage.method.plain(bare_model(trainer.state), folder), folder / "model")
        tokens = int(trainer.state.timestamp.token.value)
    finally:
        trainer.close()
        release(trainer)
    record: Cost = {
        "steps": total,
        "merge_steps": [int(merge["step"]) for merge in sfa.merges] if sfa else [],
        "merges": [{**merge} for merge in sfa.merges] if sfa else [],
        "seconds": round(recorder.seconds, 3),
        "tokens": tokens,
        "peak_bytes": machine.peak(),
        "stored_examples": sum(example_count(past_rows) for past_rows in buffer),
        "stored_bytes": memory.bytes,
        "changed": changed,
        "padded": padded,
    }
    if dist.get_global_rank() == 0:
        processor.save_pretrained(folder / "model")
        record["l2_from_anchor"] = weights.distance(folder / "model", parent / "model")
    return record, recorder.rows


def _training_of(stage: Stage) -> Training:
    """The training of a past task's stage: the stage itself, or the last one it merges."""
    if isinstance(stage, Merge):
        return _training_of(stage.sources[-1])
    assert isinstance(stage, Training), "the base is not a past task"
    return stage


def _check_steps(stage: Training, total: int, sequences: int, batch: int) -> None:
    """Checks that are possible only after the data are read.

    Raises:
        ConfigError: the training has no steps, none between two merges, or no sequence of past tasks.
    """
    error = stage.method.step_error(total) or stage.method.sequence_error(total * batch)
    if total < 1:
        error = (
            f"train.max_duration: {stage.train.max_duration} of {stage.label}'s {sequences} sequences is less than one "
            f"step of {batch}"
        )
    if error is not None:
        raise ConfigError(stage.label, [error])


def _free(trainer: Trainer, sfa: SFA | None) -> None:
    """Frees what is only needed to train, several times the model's memory, before the model is gathered and saved."""
    for optimizer in trainer.state.optimizers:
        optimizer.zero_grad()
        optimizer.state.clear()
    if sfa is not None:
        sfa.averager.stop()


def release(trainer: Trainer) -> None:
    """Releases a closed trainer's model, optimizer and anchor, which would otherwise stay in memory until the process
    ends: Composer 0.32 holds references for its exit handler, torch 2.7 for every model whose state it has named."""
    atexit.unregister(trainer.engine._close)
    if hasattr(_get_fqns, "cache_clear"):  # newer releases of torch remember no model
        _get_fqns.cache_clear()


def _optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay, fused=train.fused
        )
    fused = torch.cuda.is_available() if train.fused is None else train.fused
    return torch.optim.AdamW(parameters, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=fused)


def _scheduler(train: Train, total: int, epoch: Fraction) -> ComposerScheduler:
    warmup = f"{math.ceil(Duration.parse(train.warmup).in_steps(total, epoch)) if train.warmup else 0}ba"
    if train.schedule == "constant":
        return ConstantWithWarmupScheduler(t_warmup=warmup)
    if train.schedule == "linear":
        return LinearWithWarmupScheduler(t_warmup=warmup, alpha_f=0.0)
    return CosineAnnealingWithWarmupScheduler(t_warmup=warmup, alpha_f=0.0)


def _precision(precision: str) -> tuple[str, bool]:
    """Composer's precision, and whether the model itself computes in bfloat16 on CPU, which Composer refuses."""
    if precision == "fp32":
        return "fp32", False
    return ("amp_bf16", False) if torch.cuda.is_available() else ("fp32", True)


def _position(stage: Training, context: Context, total: int) -> Position:
    """Where a training is in its run. Trainings whose steps depend on their data count as many as this one."""
    trainings = [planned for planned in context.replan() if isinstance(planned, Training)]
    at = [planned.fingerprint for planned in trainings].index(stage.fingerprint)
    waiting = [planned for planned in trainings[at + 1 :] if not runs.is_made(context.folder(planned))]
    durations = [(Duration.parse(planned.train.max_duration), planned.train) for planned in waiting]
    later = [
        total if duration.unit == "ep" else duration.step_count(0, train.global_batch_size, train.seq_len)
        for duration, train in durations
    ]
    method = f" ({stage.method_name})" if stage.method_name != stage.label else ""
    unit = "images" if family_of_tasks(stage.tasks).rows == "images" else "tokens"
    return Position(f"[{at + 1}/{len(trainings)}] {stage.label}{method}", unit, sum(later))
