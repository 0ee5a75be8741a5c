"""Rows that a run lost and gained after it had learned them."""

from sfa.outcomes import Flips, flips, unpack
from sfa.records import FinalScore, Results


def changes(results: Results) -> dict[str, Flips]:
    """What changed, row by row, until the end of the stream: in an evaluation of a task since the task's own stage, and
    in one of the prior suite since the base. Evaluations without outcomes, and those of the last task, are left out."""
    last = results["stages"][-1]["task"]
    tasks = {name: task["name"] for task in results["config"]["tasks"] for name in task["evals"]}
    found = _changed(results["evaluations"], {name: task for name, task in tasks.items() if task != last}, last)
    general = results.get("general", [])
    return found | _changed(general, dict.fromkeys((row["evaluation"] for row in general), "base"), last)


def _changed(rows: list[FinalScore], since: dict[str, str], last: str) -> dict[str, Flips]:
    """The changes of evaluations from a stage each to the ``last``."""
    outcomes = {
        (row["after"], row["evaluation"]): unpack(row["outcomes"], row["n"]) for row in rows if "outcomes" in row
    }
    return {
        name: flips(outcomes[stage, name], outcomes[last, name])
        for name, stage in since.items()
        if {(stage, name), (last, name)} <= outcomes.keys()
    }
