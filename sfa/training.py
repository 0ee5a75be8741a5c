"""Trains one task from its parent's weights, with a Composer Trainer of its own."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.algorithms import GradientClipping
from composer.core import Algorithm
from composer.loggers import FileLogger, LoggerDestination, MLFlowLogger, TensorboardLogger, WandBLogger
from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    LinearWithWarmupScheduler,
)
from composer.utils import dist
from rich.console import Console
from torch import nn

from sfa import machine, models, weights
from sfa.algorithm import SFA
from sfa.callbacks import Evaluator, ProgressBar, Recorder, Stopper, bare_model, checkpoint_saver
from sfa.composer_model import StageModel
from sfa.config import Config, Train
from sfa.data.batches import Steps, data_spec, step_count
from sfa.data.prepare import prepare
from sfa.parallel import average_gradients_on_gloo, parallelism_config
from sfa.plan import Stage
from sfa.schedule import exact_fraction, in_steps, interval_steps


def train(
    stage: Stage, config: Config, evaluator: Evaluator, parent: Path, folder: Path, console: Console
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains ``stage`` from the model in ``parent`` and exports the result to ``folder/model``. All ranks call it.

    It goes on from the newest checkpoint in ``folder/checkpoints``, if there is one.

    Returns:
        What the stage's manifest says of the training, and the scores taken during it, by ``step``.

    Raises:
        Interrupted: a signal stopped it, after a checkpoint.
    """
    assert stage.train is not None
    settings = stage.train
    tokenizer = models.read_tokenizer(parent / "model")
    machine.reset_peak()
    language_model = models.read_model(parent / "model")
    packed, truncated = prepare(
        stage.tasks,
        tokenizer,
        settings.seq_len,
        config.seed,
        config.save_folder / "data",
        config.model.template,
        pairs=language_model.config.is_encoder_decoder,
    )
    if truncated:
        console.print(f"{stage.label}: {truncated:,} rows were cut to {settings.seq_len} tokens")
    batch, sequences = settings.global_batch_size, len(packed["input_ids"])
    total, epoch = step_count(settings.max_duration, sequences, batch, settings.seq_len), sequences / batch

    precision, cpu_bf16 = _precision(settings)
    model = StageModel(language_model, cpu_bf16)
    if settings.activation_checkpointing:
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
    merges, sfa = _sfa(stage, parent, total, epoch)
    clipping = [GradientClipping("norm", settings.max_grad_norm)] if settings.max_grad_norm is not None else []
    algorithms: list[Algorithm] = [*clipping, *([sfa] if sfa else [])]
    interval = in_steps(config.eval.interval, total, epoch) if config.eval.interval else None
    recorder = Recorder(lambda live: evaluator(live, tokenizer), interval, total)
    stopper = Stopper()
    checkpoints = folder / "checkpoints"
    saver = checkpoint_saver(str(checkpoints), in_steps(settings.save_interval, total, epoch), total, stopper)
    trainer = Trainer(
        model=model,
        train_dataloader=data_spec(Steps(packed, total, batch, config.seed), batch),
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
        load_path=_newest(checkpoints),
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
    record: dict[str, Any] = {
        "steps": total,
        "merge_steps": [int(merge["step"]) for merge in sfa.merges] if sfa else [],
        "merges": sfa.merges if sfa else [],
        "seconds": round(recorder.seconds, 3),
        "tokens": tokens,
        "peak_bytes": machine.peak(),
        "stored_examples": 0,
        "truncated": truncated,
    }
    if dist.get_global_rank() == 0:
        tokenizer.save_pretrained(folder / "model")
        record["l2_from_anchor"] = weights.distance(folder / "model", parent / "model")
    return record, recorder.rows


def _sfa(stage: Stage, parent: Path, total: int, epoch: float) -> tuple[list[int], SFA | None]:
    """SFA as the stage configures it, and the steps at which it is known to merge."""
    if stage.sfa is None:
        return [], None
    block, every = stage.sfa, stage.sfa.every
    if every is not None and every.endswith("ep"):  # the Trainer sees all epochs as one
        every = f"{math.ceil(in_steps(every, total, epoch))}ba"
    merges: list[int] = []
    if block.p is not None:
        merges = interval_steps(total, exact_fraction(block.p) * total)
    elif every is not None and every.endswith(("ba", "dur")):
        merges = interval_steps(total, in_steps(every, total, epoch))
    return merges, SFA(
        p=block.p,
        every=every,
        beta=block.beta,
        anchor=str(parent / "model"),
        anchor_device=block.anchor_device,
        reset_optimizer_on_merge=block.reset_optimizer_on_merge,
    )


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


def _newest(checkpoints: Path) -> str | None:
    """The checkpoint to go on from."""
    found = [path for path in checkpoints.glob("ep*-ba*") if path.is_file() or (path / ".metadata").is_file()]
    return str(max(found, key=lambda path: int(path.stem.rpartition("ba")[2]))) if found else None
