"""The dry run's text: what a run would do. Writes nothing."""

import errno
import shutil
from collections.abc import Sequence

import torch
from rich import filesize

from sfa.config.schema import Config
from sfa.data.sourced_task import SourcedTask
from sfa.families import Family
from sfa.models.outline import PAPER, Outline
from sfa.runs import is_made, stage_folder
from sfa.schedule import Duration
from sfa.stages.needs import BFLOAT16, FLOAT32, PROCESS, gathered, needs_of, optimizer_text
from sfa.stages.plan import Merge, Stage, Training, plan, topological_order
from sfa.stages.reachable import is_there, unreachable


def describe(config: Config, errors: list[str] | None = None) -> str:
    """Stages, steps, merge points, tokens, parameters, memory and disk of a run.

    Args:
        config: the run's config.
        errors: is extended by a line for each task whose data cannot be used.
    """
    stages = topological_order(plan(config))
    outline, reason = outline_of(config)
    family = config.family()
    lines = [
        f"{config.name}: {config.method}, seed {config.seed}, {config.parallelism}, {len(stages)} stages "
        f"in {config.save_folder / 'stages'}",
        "",
    ]
    for number, stage in enumerate(stages):
        done = is_made(stage_folder(config.save_folder, stage.fingerprint))
        head = (
            f"  {number}  {stage.label:<16} {stage.method_name:<12} {stage.fingerprint}  {'done' if done else 'to do'}"
        )
        lines.append(head)
        if isinstance(stage, Training):
            lines.append(f"     {_steps(stage, family)}")
        elif isinstance(stage, Merge):
            settings = ", ".join(f"{key} {value}" for key, value in stage.merger.weights_spec().items())
            lines.append(f"     merges {len(stage.sources)} models, {settings or 'their mean'}; no training")
    lines += ["", *config.deprecations] if config.deprecations else []
    notice = config.method_settings.neutral_notice()
    lines += ["", notice] if notice is not None else []
    lines += family.plan_notes(stage.train for stage in stages if isinstance(stage, Training))
    about = [*_previews(config, [] if errors is None else errors), *unreachable(config)]
    lines += ["", *about] if about else []
    scored = ", ".join(config.evaluations())
    lines += [
        "",
        f"evaluations: {scored}, every {config.eval.interval or 'end of stage'}" if scored else "evaluations: none",
    ]
    if config.eval.general:
        lines.append(f"prior suite: {', '.join(config.eval.general)}, before the stream and after each stage")
    if any(is_made(stage_folder(config.save_folder, stage.fingerprint)) for stage in stages):
        from sfa.stages.duration import estimate  # seconds to import

        time = estimate(config, stages)
        lines += [time] if time is not None else []
    if outline is None:
        return "\n".join([*lines, f"parameters, memory and disk: unknown, {reason}"])
    return "\n".join([*lines, *_resources(config, stages, outline)])


def _resources(config: Config, stages: Sequence[Stage], outline: Outline) -> list[str]:
    """Parameters, memory and disk."""
    parameters = outline.parameters
    trainings = [stage for stage in stages if isinstance(stage, Training)]
    trains, lora = [stage.train for stage in trainings], config.model.lora
    needs, size = needs_of(trains), FLOAT32 * parameters
    ranks = "ranks" if config.parallelism == "fsdp2" else "1"
    held = f"{size_of(needs.training * parameters)} / {ranks} per rank for float32 weights, gradients and "
    held += optimizer_text(trains)
    disk = f"{size_of(size * len(stages))} for {len(stages)} models, and up to "
    disk += f"{size_of(needs.checkpoints * parameters)} for checkpoints while a stage trains"
    if lora:
        held = f"{size_of(size)} / {ranks} per rank for float32 weights"
        disk = f"adapters alone for {len(stages)} models, and for checkpoints while a stage trains"
    holding = [stage.method for stage in trainings if stage.method.holds_anchor]
    if holding and not lora:
        is_on_device = any(getattr(method, "anchor_device", "") == "device" for method in holding)
        held += f"; the anchor {size_of(size)} / {ranks} in {'device' if is_on_device else 'host'} memory"
    if config.parallelism == "fsdp2" and not lora:
        is_mixed = all(stage.precision == "amp_bf16" for stage in trainings) and torch.cuda.is_available()
        held += f"; up to {size_of(gathered(outline, is_mixed))} of gathered weights and their gradients"
    elif config.parallelism != "fsdp2":
        held += "".join(f"; {text}" for text in _during_a_step(trainings, outline, bool(lora)))
    without = {"ddp": "activations and what DDP copies of gradients on several ranks"}
    without |= {"fsdp2": "activations and gathered weights"} if lora else {}
    held += f"; the process {size_of(PROCESS)} of host memory; without {without.get(config.parallelism, 'activations')}"
    return [
        f"parameters: {parameters:,}" + (f", frozen, with adapters of rank {lora.rank}" if lora else ""),
        f"memory: {held}",
        f"disk: {disk}",
    ]


def _during_a_step(trainings: Sequence[Training], outline: Outline, is_frozen: bool) -> list[str]:
    """What takes memory beside weights and gradients while a step is taken. Without gradients of an earlier microbatch,
    the bfloat16 copies of weights make room for the gradients."""
    mixed = [stage.train for stage in trainings if stage.precision == "amp_bf16"]
    texts = []
    if mixed and (is_frozen or needs_of(mixed).accumulates):
        texts.append(f"{size_of(BFLOAT16 * outline.parameters)} of bfloat16 copies of weights")
    added = 0 if is_frozen else needs_of(stage.train for stage in trainings).while_added(outline)
    return [*texts, f"{size_of(added)} of gradients before they are added"] if added else texts


def _previews(config: Config, errors: list[str]) -> list[str]:
    """Lines about the data that are in files or can be reached."""
    if not any(isinstance(task, SourcedTask) and is_there(task.located()) for task in config.tasks):
        return []
    from sfa.stages.preview import preview  # seconds to import

    return preview(config, errors)


def check_disk(config: Config) -> None:
    """Compares the disk space that unfinished stages need with the free space.

    Raises:
        OSError: there is not enough space.
    """
    missing = [
        stage
        for stage in topological_order(plan(config))
        if not is_made(stage_folder(config.save_folder, stage.fingerprint))
    ]
    outline, _ = outline_of(config)
    if outline is None or config.model.lora:
        return
    parameters = outline.parameters
    trains = [stage.train for stage in missing if isinstance(stage, Training)]
    needed = FLOAT32 * parameters * len(missing)
    needed += needs_of(trains).checkpoints * parameters if trains else 0
    location = next(
        folder for folder in (config.save_folder.absolute(), *config.save_folder.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(location).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{location} has {size_of(free)} free, and {len(missing)} models with their checkpoints need "
            f"{size_of(needed)}",
        )


def outline_of(config: Config) -> tuple[Outline | None, str]:
    """What is known of a run's model, or ``None`` and why it is unknown."""
    if config.model.name in PAPER:
        return PAPER[config.model.name], ""
    from sfa.models import building

    try:
        return building.outline_of(config.model, config.family()), ""
    except OSError as error:
        return None, f"the model's configuration cannot be loaded: {str(error).splitlines()[0]}"


def _steps(stage: Training, family: Family) -> str:
    """Steps, tokens and merges of a stage, as far as they are known without reading its data."""
    train, duration = stage.train, Duration.parse(stage.train.max_duration)
    if duration.unit == "ep":
        text = f"{train.max_duration} of {family.batch_text(train)} per step"
        return f"{text}, {stage.method.describe_merges(None)}"
    total = duration.step_count(0, train.global_batch_size, train.seq_len)
    text = f"{total:,} steps, {family.amount_text(train, total)}"
    return f"{text}, {stage.method.describe_merges(total)}"


def size_of(count: float) -> str:
    """A number of bytes in a suitable unit."""
    unit, name = filesize.pick_unit_and_suffix(int(count), ["bytes", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{count / unit:.1f} {name}"
