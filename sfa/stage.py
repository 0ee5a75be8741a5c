"""Makes one stage: trains a task from its parent's weights, or builds the base."""

import contextlib
import json
import logging
import math
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
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
from filelock import Timeout
from rich.console import Console
from torch import nn

from sfa import models, store, weights
from sfa.algorithm import SFA
from sfa.callbacks import Evaluator, Interrupted, ProgressBar, Recorder, Score, Stopper, bare_model, checkpoint_saver
from sfa.config import Config, Train
from sfa.data.batches import Steps, data_spec, step_count
from sfa.data.prepare import prepare
from sfa.parallel import average_gradients_on_gloo, parallelism_config
from sfa.plan import Stage
from sfa.schedule import exact_fraction, interval_steps

log = logging.getLogger(__name__)


@dataclass
class Context:
    """What all stages of a run share."""

    config: Config
    evaluator: Evaluator
    console: Console

    def folder(self, stage: Stage) -> Path:
        return self.config.save_folder / "stages" / stage.fingerprint


def make(stage: Stage, context: Context) -> dict[str, Any]:
    """Returns the manifest of a stage, making the stage first if no finished one is on disk.

    Raises:
        Interrupted: a signal stopped the training, after a checkpoint; calling again goes on from there.
        DamagedStage: the parent's files are not those its manifest lists.
    """
    folder = context.folder(stage)
    with _alone(folder, context.console):
        made = store.manifest(folder)
        if made is not None:
            return made
        folder.mkdir(parents=True, exist_ok=True)
        record = _base(stage, context, folder) if stage.parent is None else _train(stage, context, folder)
        if dist.get_global_rank() == 0:
            manifest = {
                "fingerprint": stage.fingerprint,
                "task": stage.label,
                "method": stage.method,
                "spec": stage.spec,
                **record,
                "made": {"date": time.strftime("%Y-%m-%d"), "hardware": _hardware(), "torch": torch.__version__},
            }
            store.finish(folder, manifest)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        dist.barrier()
    made = store.manifest(folder)
    assert made is not None, "it was just written"
    return made


def scores(stage: Stage, context: Context) -> list[Score]:
    """The final scores of a finished stage on the run's evaluations; what is not on disk yet is evaluated now."""
    folder = context.folder(stage)
    evaluator = context.evaluator
    known = {row["key"]: row for row in read_rows(folder) if row["final"]}
    missing = [name for name in evaluator.names if evaluator.key(name) not in known]
    if missing:
        model = models.read_model(folder / "model").eval()
        if torch.cuda.is_available():
            model = model.cuda()
        tokenizer = models.read_tokenizer(folder / "model")
        fresh = _rows([{"step": 0, **score} for score in evaluator(model, tokenizer, missing)], evaluator, final=0)
        known |= {row["key"]: row for row in fresh}
        if dist.get_global_rank() == 0:
            store.write_json(folder / "evaluations.json", [*read_rows(folder), *fresh])
    return [known[evaluator.key(name)] for name in evaluator.names]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All scores kept with a stage: those during its training by ``step``, and the ``final`` ones."""
    file = folder / "evaluations.json"
    return list(json.loads(file.read_text())) if file.is_file() else []


def _base(stage: Stage, context: Context, folder: Path) -> dict[str, Any]:
    """Builds or downloads the model that the stream starts from, and keeps it like any other stage."""
    if dist.get_global_rank() == 0:
        model, tokenizer = models.build(context.config.model, context.config.seed)
        model.save_pretrained(folder / "model")  # type: ignore[operator]
        tokenizer.save_pretrained(folder / "model")
    return {"parent": None, "steps": 0}


def _train(stage: Stage, context: Context, folder: Path) -> dict[str, Any]:
    assert stage.parent is not None and stage.task is not None and stage.train is not None
    config, train = context.config, stage.train
    parent = context.folder(stage.parent)
    store.verify(parent)
    tokenizer = models.read_tokenizer(parent / "model")
    packed, truncated = prepare(stage.task, tokenizer, train.seq_len, config.seed, config.save_folder / "data")
    batch = train.global_batch_size
    total = step_count(train.max_duration, len(packed["input_ids"]), batch, train.seq_len)
    epoch = len(packed["input_ids"]) / batch
    steps = Steps(packed, total, batch, config.seed)

    _reset_peak()
    model = models.StageModel(models.read_model(parent / "model"))
    interval = config.eval.interval and in_steps(config.eval.interval, total, epoch)
    recorder = Recorder(lambda live: context.evaluator(live, tokenizer), interval or None, total)
    stopper = Stopper()
    merges, algorithms = _algorithms(stage, parent, total, epoch)
    run_folder = config.save_folder / config.name
    checkpoints = folder / "checkpoints"
    trainer = Trainer(
        model=model,
        train_dataloader=data_spec(steps, batch),
        max_duration=f"{total}ba",
        optimizers=_optimizer(model, train),
        schedulers=_scheduler(train, total, epoch),
        algorithms=algorithms,
        callbacks=[
            ProgressBar(_title(stage, config), total, merges, context.console),
            recorder,
            checkpoint_saver(str(checkpoints), in_steps(train.save_interval, total, epoch), total, stopper),
            stopper,
        ],
        loggers=_loggers(config, run_folder / "logs" / stage.label),
        seed=config.seed,
        precision=_precision(train),
        device_train_microbatch_size=train.microbatch_size or batch // dist.get_world_size(),
        parallelism_config=parallelism_config(config.parallelism, config.checkpoint),
        load_path=_newest(checkpoints),
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

    record: dict[str, Any] = {}
    if dist.get_global_rank() == 0:
        tokenizer.save_pretrained(folder / "model")
        sfa = next((a for a in algorithms if isinstance(a, SFA)), None)
        record = {
            "parent": stage.parent.fingerprint,
            "steps": total,
            "merge_steps": [int(merge["step"]) for merge in sfa.merges] if sfa else [],
            "merges": sfa.merges if sfa else [],
            "l2_from_anchor": weights.distance(folder / "model", parent / "model"),
            "seconds": round(recorder.seconds, 3),
            "tokens": tokens,
            "peak_bytes": _peak(),
            "stored_examples": 0,
            "truncated": truncated,
        }
        store.write_json(folder / "evaluations.json", _rows(recorder.rows, context.evaluator, final=total))
    return record


def in_steps(interval: str, total: int, epoch: float) -> Fraction:
    """An interval such as ``"50ba"``, ``"1ep"`` or ``"0.25dur"`` in steps, of a training of ``total`` steps with
    ``epoch`` steps an epoch."""
    unit = interval.lstrip("0123456789_.")
    value = exact_fraction(interval.removesuffix(unit).replace("_", ""))
    return {"ba": value, "ep": value * Fraction(epoch), "dur": value * total}[unit]


def _algorithms(stage: Stage, parent: Path, total: int, epoch: float) -> tuple[list[int], list[Algorithm]]:
    """The algorithms of a stage, and the steps at which they are known to merge."""
    assert stage.train is not None
    algorithms: list[Algorithm] = []
    merges: list[int] = []
    if stage.train.max_grad_norm is not None:
        algorithms.append(GradientClipping("norm", stage.train.max_grad_norm))
    if stage.sfa is not None:
        block = stage.sfa
        every = block.every
        if every is not None and every.endswith("ep"):  # the Trainer sees all epochs as one
            every = f"{math.ceil(in_steps(every, total, epoch))}ba"
        if block.p is not None:
            merges = interval_steps(total, exact_fraction(block.p) * total)
        elif every is not None and every.endswith(("ba", "dur")):
            merges = interval_steps(total, in_steps(every, total, epoch))
        algorithms.append(
            SFA(
                p=block.p,
                every=every,
                beta=block.beta,
                anchor=str(parent / "model"),
                anchor_device=block.anchor_device,
                reset_optimizer_on_merge=block.reset_optimizer_on_merge,
            )
        )
    return merges, algorithms


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


def _precision(train: Train) -> str:
    if train.precision != "auto":
        return train.precision
    return "amp_bf16" if torch.cuda.is_available() else "fp32"


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
    position = [task.name for task in config.tasks].index(stage.label) + 1
    return f"[{position}/{len(config.tasks)}] {stage.label} ({stage.method})"


def _newest(checkpoints: Path) -> str | None:
    """The checkpoint to go on from."""
    found = [path for path in checkpoints.glob("ep*-ba*") if path.is_file() or (path / ".metadata").is_file()]
    return str(max(found, key=lambda path: int(path.stem.rpartition("ba")[2]))) if found else None


def _rows(rows: list[dict[str, Any]], evaluator: Evaluator, final: int) -> list[dict[str, Any]]:
    return [{**row, "key": evaluator.key(row["task"]), "final": row["step"] == final} for row in rows]


@contextlib.contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Holds the stage's lock while all ranks are inside."""
    if dist.get_global_rank() != 0:
        dist.barrier()
        yield
        return
    lock = store.lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another process that makes stage {folder.name}")
        lock.acquire()
    with lock:
        lock.release()  # the context holds it a second time
        dist.barrier()
        yield


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{dist.get_world_size()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads() * dist.get_world_size()} threads on {platform.machine()}"


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of resident memory


def _peak() -> int:
    """Peak memory of this rank since the last reset, bytes: on the GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
