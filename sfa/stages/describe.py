"""What a run would do: the dry run's text. Nothing is written."""

import errno
import shutil

from rich import filesize

from sfa.config.schema import Config
from sfa.families import Family
from sfa.runs import is_made, stage_folder
from sfa.schedule import Duration
from sfa.stages.plan import Merge, Training, in_order, plan

MODEL_BYTES, CHECKPOINT_BYTES = 4, 24  # a parameter: of a model, and of two checkpoints with AdamW's state
PARAMETERS = {  # of the paper's models, so that their dry run needs no hub
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "bigscience/T0_3B": 2_849_757_184,
    "bigscience/T0pp": 11_135_332_352,
    "google/vit-base-patch16-224-in21k": 85_798_656,  # without a head
}


def describe(config: Config) -> str:
    """Stages, steps, merge points, tokens, parameters, memory and disk of a run."""
    needed = in_order(plan(config))
    parameters, why = parameter_count_of(config)
    family = config.family()
    lines = [
        f"{config.name}: {config.method}, seed {config.seed}, {config.parallelism}, {len(needed)} stages "
        f"in {config.save_folder / 'stages'}",
        "",
    ]
    for number, stage in enumerate(needed):
        done = is_made(stage_folder(config.save_folder, stage.fingerprint))
        head = f"  {number}  {stage.label:<16} {stage.method:<12} {stage.fingerprint}  {'done' if done else 'to do'}"
        lines.append(head)
        if isinstance(stage, Training):
            lines.append(f"     {_steps(stage, family)}")
        elif isinstance(stage, Merge):
            settings = ", ".join(f"{key} {value}" for key, value in stage.merger.weights_spec().items())
            lines.append(f"     merges {len(stage.sources)} models, {settings or 'their mean'}; no training")
    lines += ["", *config.deprecations] if config.deprecations else []
    setting = config.block.neutral_setting()
    lines += ["", f"{setting} leaves the weights as method=sequential makes them"] if setting is not None else []
    lines += family.plan_notes(stage.train for stage in needed if isinstance(stage, Training))
    lines += ["", f"evaluations: {', '.join(config.evaluations())}, every {config.eval.interval or 'end of stage'}"]
    if parameters is None:
        return "\n".join([*lines, f"parameters, memory and disk: unknown, {why}"])
    lora = config.model.lora
    trained = f", frozen, with adapters of rank {lora.rank}" if lora else ""
    each, kinds = (4, "") if lora else (16, ", gradients and AdamW")
    ranks = "ranks" if config.parallelism == "fsdp2" else "1"
    holding = [stage.block for stage in needed if isinstance(stage, Training) and stage.block.holds_anchor]
    anchor = "device" if any(getattr(block, "anchor_device", "") == "device" for block in holding) else "host"
    return "\n".join(
        [
            *lines,
            f"parameters: {parameters:,}{trained}",
            f"memory: {size_of(each * parameters)} / {ranks} a rank for float32 weights{kinds}, without activations"
            + (f"; the anchor {size_of(4 * parameters)} / {ranks} in {anchor} memory" if holding and not lora else ""),
            f"disk: {size_of(MODEL_BYTES * parameters * len(needed))} for {len(needed)} models, and up to "
            f"{size_of(CHECKPOINT_BYTES * parameters)} for checkpoints while a stage trains",
        ]
    )


def check_disk(config: Config) -> None:
    """Compares what the stages still to do need with what is free.

    Raises:
        OSError: there is too little.
    """
    missing = [
        stage for stage in in_order(plan(config)) if not is_made(stage_folder(config.save_folder, stage.fingerprint))
    ]
    parameters, _ = parameter_count_of(config)
    if parameters is None or config.model.lora:
        return
    needed = MODEL_BYTES * parameters * len(missing)
    needed += CHECKPOINT_BYTES * parameters if any(isinstance(stage, Training) for stage in missing) else 0
    place = next(
        folder for folder in (config.save_folder.absolute(), *config.save_folder.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{place} has {size_of(free)} free, and {len(missing)} models with their checkpoints need "
            f"{size_of(needed)}",
        )


def parameter_count_of(config: Config) -> tuple[int | None, str]:
    """Parameters of a run's model, or ``None`` and why they are not known."""
    if config.model.name in PARAMETERS:
        return PARAMETERS[config.model.name], ""
    from sfa.families.models import parameter_count

    try:
        return parameter_count(config.model, config.family()), ""
    except OSError as error:
        return None, f"the model's configuration cannot be had: {str(error).splitlines()[0]}"


def _steps(stage: Training, family: Family) -> str:
    """Steps, tokens and merges of a stage, as far as they are known before its data are read."""
    train, duration = stage.train, Duration.parse(stage.train.max_duration)
    if duration.unit == "ep":
        text = f"{train.max_duration} of {family.batch_text(train)} a step"
        return f"{text}, {stage.block.describe_merges(None)}"
    total = duration.step_count(0, train.global_batch_size, train.seq_len)
    text = f"{total:,} steps, {family.amount_text(train, total)}"
    return f"{text}, {stage.block.describe_merges(total)}"


def size_of(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit, name = filesize.pick_unit_and_suffix(int(count), ["bytes", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{count / unit:.1f} {name}"
