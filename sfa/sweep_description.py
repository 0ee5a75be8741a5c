"""What a sweep would do: its dry run's text. Nothing is written."""

from collections.abc import Sequence

from sfa import store
from sfa.families import family_of_tasks
from sfa.runs import is_made, read_manifest, stage_folder
from sfa.stages.describe import parameter_count_of, size_of
from sfa.stages.plan import Merge, Stage, Training, in_order, plan
from sfa.sweeps import SweepRun, stages

PEAK, UTILIZATION = 989e12, 0.4  # an H100's dense bf16 rate, and what trainings reach of one


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
    counted = {run.config.model.model_dump_json(): parameter_count_of(run.config) for _, run in found}
    sizes = [counted[run.config.model.model_dump_json()] for _, run in found]
    known = [size for size, _ in sizes if size is not None]
    why = next((f"; more, unknown: {reason}" for _, reason in sizes if reason), "")
    return "\n".join(
        [
            f"{name}: {len(runs)} runs, {len(found)} stages, {done} done, {len(found) - done} to do",
            *lines,
            f"trainings: {trainings}; a loop over the runs would take {loop}",
            _hours(found, [size for size, _ in sizes]),
            f"disk: {size_of(4 * sum(known))} for {len(known)} models{why}",
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
