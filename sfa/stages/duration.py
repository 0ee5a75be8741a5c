"""How long a run's trainings will take, from finished ones of the same model in its folder."""

from collections.abc import Sequence

from sfa import runs
from sfa.config.schema import Config
from sfa.machine import hardware
from sfa.records import Manifest
from sfa.runs import is_made, stage_folder
from sfa.schedule import Duration
from sfa.stages.plan import Stage, Training
from sfa.values import Spec

SIZES = ("global_batch_size", "seq_len", "precision")  # train settings that determine how long a step takes


def estimate(config: Config, stages: Sequence[Stage]) -> str | None:
    """A line about the unfinished trainings among ``stages``, the base first; ``None`` if nothing was measured on this
    hardware."""
    todo = [
        stage
        for stage in stages
        if isinstance(stage, Training) and not is_made(stage_folder(config.save_folder, stage.fingerprint))
    ]
    measured = _measured(config, stages[0].fingerprint)
    known = [seconds for stage in todo if (seconds := _seconds(stage, measured)) is not None]
    if not known:
        return None
    rest = len(todo) - len(known)
    unknown = f"; {rest} more, whose steps depend on the data" if rest else ""
    noun = "training" if len(known) == 1 else "trainings"
    return f"time: about {as_text(sum(known))} for {len(known)} {noun}, at the pace of finished ones here{unknown}"


def as_text(seconds: float) -> str:
    """A duration in hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _measured(config: Config, base: str) -> list[Manifest]:
    """The manifests of finished trainings of the same base on this hardware, the latest last."""
    by_name = {manifest["fingerprint"]: manifest for manifest in runs.manifests(config.save_folder)}

    def root(manifest: Manifest) -> str:
        while manifest["parent"] is not None and manifest["parent"] in by_name:
            manifest = by_name[manifest["parent"]]
        return manifest["fingerprint"]

    here = hardware()
    return [
        manifest
        for manifest in by_name.values()
        if manifest["spec"].get("kind") == "train"
        and manifest["made"]["hardware"] == here
        and root(manifest) == base
        and manifest["steps"]
    ]


def _seconds(stage: Training, measured: Sequence[Manifest]) -> float | None:
    """Of a training, by the time per step of a finished one with sequences and batches of the same size."""
    wanted: Spec = {**stage.train.weights_spec(), "precision": stage.precision}
    for manifest in reversed(measured):
        spec: Spec = {**manifest["spec"]}
        if any(spec["train"].get(key) != wanted.get(key) for key in SIZES):
            continue
        duration = Duration.parse(stage.train.max_duration)
        if duration.unit != "ep":
            steps = duration.step_count(0, stage.train.global_batch_size, stage.train.seq_len)
            return steps * manifest["seconds"] / manifest["steps"]
        if spec["tasks"] == list(stage.data) and spec["train"]["max_duration"] == stage.train.max_duration:
            return manifest["seconds"]
    return None
