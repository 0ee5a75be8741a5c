"""The dry run's text of a sweep: what it would do. Writes nothing."""

from collections.abc import Sequence

from sfa import store
from sfa.families import family_of_tasks
from sfa.runs import is_made, read_manifest, stage_folder
from sfa.stages.describe import outline_of, size_of
from sfa.stages.plan import Merge, Stage, Training, plan, topological_order
from sfa.sweeps import SweepRun, stages

PEAK, UTILIZATION = 989e12, 0.4  # an H100's dense bf16 rate, and the share that trainings reach


def describe_sweep(name: str, runs: Sequence[SweepRun]) -> str:
    """The graph of stages of a sweep: what is finished, what remains, and what sharing saves."""
    lines, done, trainings = [], 0, 0
    planned = stages(runs)
    for stage, run in planned:
        ready = is_made(stage_folder(run.config.save_folder, stage.fingerprint))
        kind = "trains" if isinstance(stage, Training) else "merges" if isinstance(stage, Merge) else "builds"
        needed = stage.sources if isinstance(stage, Merge) else stage.needs
        origin = f"from {' '.join(source.fingerprint[:8] for source in needed)}" if needed else ""
        state = "done" if ready else "to do"
        lines.append(
            f"  {stage.fingerprint[:8]}  {state:<5}  {kind}  {stage.label:<16} "
            f"{stage.method_name:<16} {origin}".rstrip()
        )
        done, trainings = done + ready, trainings + (kind == "trains")
    loop = sum(isinstance(stage, Training) for run in runs for stage in topological_order(plan(run.config)))
    outlines = {run.config.model.model_dump_json(): outline_of(run.config) for _, run in planned}
    found = [outlines[run.config.model.model_dump_json()] for _, run in planned]
    sizes = [(None if outline is None else outline.parameters, reason) for outline, reason in found]
    known = [size for size, _ in sizes if size is not None]
    unknown = next((f"; more, unknown: {reason}" for _, reason in sizes if reason), "")
    return "\n".join(
        [
            f"{name}: {len(runs)} runs, {len(planned)} stages, {done} done, {len(planned) - done} to do",
            *lines,
            f"trainings: {trainings}; a loop over the runs would take {loop}",
            _hours(planned, [size for size, _ in sizes]),
            f"disk: {size_of(4 * sum(known))} for {len(known)} models{unknown}",
        ]
    )


def _hours(planned: Sequence[tuple[Stage, SweepRun]], parameters: Sequence[int | None]) -> str:
    """Estimated device hours of the unfinished trainings: at the pace of a finished one on the same task if there is
    one, otherwise from 6 floating-point operations per parameter and token."""
    measured: dict[str, float] = {}
    waiting: list[tuple[Training, SweepRun, int | None]] = []
    for (stage, run), size in zip(planned, parameters, strict=True):
        manifest = read_manifest(stage_folder(run.config.save_folder, stage.fingerprint))
        if not isinstance(stage, Training):
            continue
        if manifest is not None:
            measured[_work(stage, run)] = manifest["seconds"] * manifest["made"].get("ranks", 1) / 3600
        else:
            waiting.append((stage, run, size))
    known = [measured[_work(stage, run)] for stage, run, _ in waiting if _work(stage, run) in measured]
    rest = [
        (family_of_tasks(stage.tasks).token_count(stage.train, stage.tasks), size)
        for stage, run, size in waiting
        if _work(stage, run) not in measured
    ]
    operations = [6.0 * tokens * size for tokens, size in rest if tokens is not None and size is not None]
    estimates = [f"{sum(known):.2f} for {len(known)}, at the pace of finished ones"] if known else []
    if operations:
        hours = sum(operations) / (UTILIZATION * PEAK) / 3600
        rate = f"{UTILIZATION:.0%} of an H100's {PEAK / 1e12:.0f} TFLOP/s"
        estimates.append(f"about {hours:.2g} for {len(operations)}, at {rate}")
    if len(operations) < len(rest):
        estimates.append(f"unknown for {len(rest) - len(operations)}, until one of them is done")
    return "device hours of the trainings to do: " + ("; ".join(estimates) or "0")


def _work(stage: Training, run: SweepRun) -> str:
    """Equal for trainings that take about as long."""
    return store.fingerprint([run.config.model.model_dump_json(), list(stage.data), stage.train.weights_spec()])
