"""What a run would do: the dry run's text. Nothing is written."""

import errno
import shutil
from collections.abc import Sequence

from rich import filesize

from sfa import store
from sfa.config.schema import Config
from sfa.families import Family, family_of_tasks
from sfa.runs import is_made, read_manifest, stage_folder
from sfa.schedule import Duration
from sfa.stages.plan import Merge, Stage, Training, in_order, plan
from sfa.sweeps import SweepRun, stages

MODEL_BYTES, CHECKPOINT_BYTES = 4, 24  # a parameter: of a model, and of two checkpoints with AdamW's state
PEAK, UTILIZATION = 989e12, 0.4  # an H100's dense bf16 rate, and what trainings reach of one
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
    parameters, why = _parameters(config)
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
            f"memory: {_size(each * parameters)} / {ranks} a rank for float32 weights{kinds}, without activations"
            + (f"; the anchor {_size(4 * parameters)} / {ranks} in {anchor} memory" if holding and not lora else ""),
            f"disk: {_size(MODEL_BYTES * parameters * len(needed))} for {len(needed)} models, and up to "
            f"{_size(CHECKPOINT_BYTES * parameters)} for checkpoints while a stage trains",
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
    parameters, _ = _parameters(config)
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
            f"{place} has {_size(free)} free, and {len(missing)} models with their checkpoints need {_size(needed)}",
        )


def describe_sweep(name: str, runs: Sequence[SweepRun]) -> str:
    """The graph of stages of a sweep: what is there of it, what remains, and what sharing saves."""
    lines, done, trainings = [], 0, 0
    found = stages(runs)
    for stage, run in found:
        ready = is_made(stage_folder(run.config.save_folder, stage.fingerprint))
        kind = "trains" if isinstance(stage, Training) else "merges" if isinstance(stage, Merge) else "builds"
        needed = stage.sources if isinstance(stage, Merge) else stage.needs
        origin = f"from {' '.join(part.fingerprint[:8] for part in needed)}" if needed else ""
        state = "done" if ready else "to do"
        lines.append(
            f"  {stage.fingerprint[:8]}  {state:<5}  {kind}  {stage.label:<16} {stage.method:<16} {origin}".rstrip()
        )
        done, trainings = done + ready, trainings + (kind == "trains")
    loop = sum(isinstance(stage, Training) for run in runs for stage in in_order(plan(run.config)))
    counted = {run.config.model.model_dump_json(): _parameters(run.config) for _, run in found}
    sizes = [counted[run.config.model.model_dump_json()] for _, run in found]
    known = [size for size, _ in sizes if size is not None]
    why = next((f"; more, unknown: {reason}" for _, reason in sizes if reason), "")
    return "\n".join(
        [
            f"{name}: {len(runs)} runs, {len(found)} stages, {done} done, {len(found) - done} to do",
            *lines,
            f"trainings: {trainings}; a loop over the runs would take {loop}",
            _hours(found, [size for size, _ in sizes]),
            f"disk: {_size(4 * sum(known))} for {len(known)} models{why}",
        ]
    )


def _hours(found: Sequence[tuple[Stage, SweepRun]], parameters: Sequence[int | None]) -> str:
    """Hours of one device that the trainings still to do take: at the pace of a finished one of the same task where
    there is one, else by 6 floating-point operations a parameter and token."""
    measured: dict[str, float] = {}
    waiting: list[tuple[Training, SweepRun, int | None]] = []
    for (stage, run), size in zip(found, parameters, strict=True):
        made = read_manifest(stage_folder(run.config.save_folder, stage.fingerprint))
        if not isinstance(stage, Training):
            continue
        if made is not None:
            measured[_work(stage, run)] = made["seconds"] * made["made"].get("ranks", 1) / 3600
        else:
            waiting.append((stage, run, size))
    known = [measured[_work(stage, run)] for stage, run, _ in waiting if _work(stage, run) in measured]
    rest = [(_tokens(stage), size) for stage, run, size in waiting if _work(stage, run) not in measured]
    operations = [6.0 * tokens * size for tokens, size in rest if tokens is not None and size is not None]
    parts = [f"{sum(known):.2f} for {len(known)}, at the pace of finished ones"] if known else []
    if operations:
        hours = sum(operations) / (UTILIZATION * PEAK) / 3600
        rate = f"{UTILIZATION:.0%} of an H100's {PEAK / 1e12:.0f} TFLOP/s"
        parts.append(f"about {hours:.2g} for {len(operations)}, at {rate}")
    if len(operations) < len(rest):
        parts.append(f"unknown for {len(rest) - len(operations)}, until one of them is done")
    return "device hours of the trainings to do: " + ("; ".join(parts) or "0")


def _work(stage: Training, run: SweepRun) -> str:
    """Equal for trainings that take about as long."""
    return store.fingerprint([run.config.model.model_dump_json(), list(stage.data), stage.train.weights_spec()])


def _tokens(stage: Training) -> float | None:
    """Tokens that a stage trains on, roughly."""
    return family_of_tasks(stage.tasks).token_count(stage.train, stage.tasks)


def _parameters(config: Config) -> tuple[int | None, str]:
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


def _size(count: float) -> str:
    unit, name = filesize.pick_unit_and_suffix(int(count), ["bytes", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{count / unit:.1f} {name}"
