"""Stages of an earlier run that a stream continues from: taken as they are, since their data may be gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfa import runs
from sfa.records import Results, Score
from sfa.stages.plan import Stage
from sfa.values import Spec


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept(Stage):
    """A finished stage of an earlier run.

    Attributes:
        run: folder of the run.
        kept_as: its fingerprint there.
        before: the stage before it.
        recorded: its scores in the run's results.
    """

    run: Path
    kept_as: str
    before: Stage | None = None
    recorded: Sequence[Score] = ()

    @property
    def parent(self) -> Stage | None:
        return self.before

    @property
    def needs(self) -> Sequence[Stage]:
        return () if self.before is None else (self.before,)

    def spec(self) -> Spec:
        """That of its manifest, which is not written again."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        return self.kept_as


def kept_stages(run: Path) -> list[Stage]:
    """The base and the evaluated stages of a finished run.

    Raises:
        UsageError: the run is not finished, or one of its stages was deleted.
        DamagedStage: a file of the run was changed.
    """
    results = runs.read_results(run)
    first = runs.read_manifest_of(run, results["stages"][0]["fingerprint"])
    base = Kept(
        label="base", method_name="none", run=run, kept_as=str(first["parent"]), recorded=_scores(results, "base")
    )
    stages: list[Stage] = [base]
    for record in results["stages"]:
        stages.append(
            Kept(
                label=record["task"],
                method_name=record["method"],
                run=run,
                kept_as=record["fingerprint"],
                before=stages[-1],
                recorded=_scores(results, record["task"]),
            )
        )
    for stage in stages:
        runs.read_manifest_of(run, stage.fingerprint)
    return stages


def _scores(results: Results, after: str) -> list[Score]:
    """A stage's scores in a run's results."""
    rows = [dict(row) for row in results["evaluations"] if row["after"] == after]
    return [{key: value for key, value in row.items() if key != "after"} for row in rows]  # type: ignore[misc]
