"""When a stream of tasks can decide a claim: conditions that name no method but sequential, single-task and multitask
training, over runs of :func:`bed_runs`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from omegaconf import DictConfig

from sfa import config as configs
from sfa.config import Evaluations
from sfa.config.reading import read_file
from sfa.errors import UsageError
from sfa.records import Results
from sfa.runs import read_scored, read_scores_of
from sfa.schedule import Duration
from sfa.sweeps import SweepRun, expand
from sfa.values import Overrides, flat

AT_CHANCE = 0.05  # the most that the base may be above chance
LEARNED, OF_BEST = 0.80, 0.90  # what a task alone must reach, or this share of the best known model
WITHIN = 0.05  # of the single task's score
LOST = 0.80  # share of the first task's gain
EARLY, EARLY_GAIN = Fraction(1, 8), 0.50  # of the second task's steps, and of its gain
SPREAD, OF_SETTINGS = 0.05, 0.95  # the largest standard deviation over seeds, in this share of the final scores


@dataclass(frozen=True)
class Condition:
    """A condition on a stream: what must be at least 0, and what it is for each task, in points of the score."""

    number: int
    text: str
    margins: Mapping[str, float]

    @property
    def holds(self) -> bool:
        return all(margin >= 0 for margin in self.margins.values())


@dataclass(frozen=True)
class Outcome:
    """Runs of one stream over several seeds.

    Attributes:
        names: the tasks' names, in order.
        base: ``[task][seed]``, scores of the model before the stream.
        alone: ``[task][seed]``, of each task trained alone, on itself.
        multitask: ``[task][seed]``.
        after: ``[stage][task][seed]``, of sequential training.
        early: ``[seed]``, of sequential training on the second task after an eighth of its steps.
        chance: ``[task]``.
    """

    names: Sequence[str]
    base: Sequence[Sequence[float]]
    alone: Sequence[Sequence[float]]
    multitask: Sequence[Sequence[float]]
    after: Sequence[Sequence[Sequence[float]]]
    early: Sequence[float]
    chance: Sequence[float]

    def conditions(self, best_known: Mapping[str, float]) -> list[Condition]:
        """Conditions 1 to 5, by the means over seeds.

        Args:
            best_known: the score of the largest model in reach, by task.
        """
        mean = statistics.fmean
        tasks = {name: i for i, name in enumerate(self.names)}
        base, alone = [mean(s) for s in self.base], [mean(s) for s in self.alone]
        final = [mean(scores) for scores in self.after[-1]]
        required = {name: min(LEARNED, OF_BEST * best_known.get(name, 1.0)) for name in tasks}
        first, second, last = self.names[0], self.names[1], self.names[-1]
        learned, kept = mean(self.after[0][0]) - base[0], final[0] - base[0]
        before, own = mean(self.after[0][1]), mean(self.after[1][1])
        return [
            Condition(
                1,
                f"the base is at most {AT_CHANCE:.2f} above chance",
                {name: self.chance[i] + AT_CHANCE - base[i] for name, i in tasks.items()},
            ),
            Condition(
                2,
                f"alone, a task reaches {LEARNED:.2f}, or {OF_BEST:.0%} of the best known score",
                {name: alone[i] - required[name] for name, i in tasks.items()},
            ),
            Condition(
                3,
                f"multitask training is at most {WITHIN:.2f} below each task alone",
                {name: mean(self.multitask[i]) - alone[i] + WITHIN for name, i in tasks.items()},
            ),
            Condition(
                4,
                f"sequential training is at most {WITHIN:.2f} below the last task alone, and loses {LOST:.0%} of the "
                "first one's gain",
                {last: final[-1] - alone[-1] + WITHIN, first: (learned - kept) - LOST * learned},
            ),
            Condition(
                5,
                f"an eighth of the steps bring {EARLY_GAIN:.0%} of the second task's gain",
                {second: mean(self.early) - before - EARLY_GAIN * (own - before)},
            ),
        ]

    @property
    def early_share(self) -> float:
        """The share of the second task's gain that an eighth of its steps bring; ``nan`` without a gain."""
        before, own = statistics.fmean(self.after[0][1]), statistics.fmean(self.after[1][1])
        return (statistics.fmean(self.early) - before) / (own - before) if own != before else math.nan

    def spreads(self) -> list[float]:
        """The standard deviation over seeds of every final score."""
        finals = [*self.alone, *self.multitask, *(task for stage in self.after for task in stage)]
        return [statistics.stdev(scores) for scores in finals]


def validate(bed: Outcome, doubled: Outcome, best_known: Mapping[str, float]) -> list[Condition]:
    """Conditions 1 to 7.

    Args:
        bed: the stream.
        doubled: the same with twice the steps.
        best_known: see :meth:`Outcome.conditions`.
    """
    conditions = bed.conditions(best_known)
    longer = doubled.conditions(best_known)
    moved = {
        f"condition {short.number}: {name}": 0.0 if (margin >= 0) == (long.margins[name] >= 0) else long.margins[name]
        for short, long in zip(conditions, longer, strict=True)
        for name, margin in short.margins.items()
    }
    moved = {name: -abs(margin) for name, margin in moved.items()}
    quiet = [spread < SPREAD for spread in [*bed.spreads(), *doubled.spreads()]]
    share = f"share of {len(quiet)} final scores"
    return [
        *conditions,
        Condition(6, "twice the steps move no condition", moved),
        Condition(
            7,
            f"the standard deviation over seeds is under {SPREAD:.2f} in {OF_SETTINGS:.0%} of the final scores",
            {share: statistics.fmean(quiet) - OF_SETTINGS},
        ),
    ]


def bed_runs(
    config: Path, seeds: Sequence[int], overrides: Sequence[str] = (), evaluations: Evaluations | None = None
) -> dict[bool, list[list[SweepRun]]]:
    """The runs of a config that the conditions are about, by whether they have twice the steps: sequential training,
    multitask training with as many steps as the whole stream and as many sequences of each task, then each task alone;
    each over ``seeds``.

    Raises:
        UsageError: the stream has one task, or tasks of different lengths.
    """
    loaded = configs.load(config, overrides, evaluations)
    is_split = any("split" in entry for entry in read_file(config)["tasks"] if isinstance(entry, DictConfig))
    n, duration = len(loaded.tasks), Duration.parse(loaded.train.max_duration)
    if n < 2:
        raise UsageError(f"{config}: a stream needs two tasks")
    if any("max_duration" in task.train for task in loaded.tasks) or loaded.trial_duration is not None:
        raise UsageError(f"{config}: its tasks must take the same train.max_duration")

    def times(factor: int) -> str:
        return str(Duration(factor * duration.value, duration.unit))

    def only(k: int) -> Overrides:
        return (
            {"tasks.0.trained": [[k]]} if is_split else {f"tasks.{j}.evaluate_only": True for j in range(n) if j != k}
        )

    runs = {}
    for doubled in (False, True):
        steps = 2 if doubled else 1
        own = {"train.max_duration": times(steps)}
        points: list[Overrides] = [
            {"method": "sequential", **own, "eval.interval": "0.125dur"},
            {"method": "multitask", "multitask.balanced": True, **own},
            *({"method": "sequential", **own, **only(k)} for k in range(n)),
        ]
        runs[doubled] = [expand(config, [point], seeds, overrides, evaluations) for point in points]
    return runs


def read_outcome(runs: Sequence[Sequence[SweepRun]]) -> Outcome:
    """The outcome of finished runs: sequential, multitask, then each task alone."""
    sequential, multitask, *single = [[read_scored(run.folder) for run in group] for group in runs]
    tasks = range(len(single))
    names = [task["name"] for task in sequential[0]["config"]["tasks"]]
    return Outcome(
        names=names,
        base=[[task_score(run, i, "base") for run in sequential] for i in tasks],
        alone=[[task_score(run, i, names[i]) for run in single[i]] for i in tasks],
        multitask=[[task_score(run, i, "multitask") for run in multitask] for i in tasks],
        after=[[[task_score(run, i, after) for run in sequential] for i in tasks] for after in names],
        early=[_early(run, group.folder) for run, group in zip(sequential, runs[0], strict=True)],
        chance=[chance(sequential[0], i) for i in tasks],
    )


def task_score(run: Results, task: int, after: str) -> float:
    """A run's score on a task: the mean over its evaluations."""
    names = run["config"]["tasks"][task]["evals"]
    values = [row["value"] for row in run["evaluations"] if row["after"] == after and row["evaluation"] in names]
    return statistics.fmean(values)


def chance(run: Results, task: int) -> float:
    """What always giving the most common answer scores, or guessing among an image's labels; 0 without choices."""
    classes = flat(run["config"]).get(f"tasks.{task}.classes")
    if classes:
        return 1 / int(classes)
    names = run["config"]["tasks"][task]["evals"]
    rows = [row for row in run["evaluations"] if row["after"] == "base" and row["evaluation"] in names]
    return statistics.fmean(row.get("majority", 0.0) for row in rows)


def _early(run: Results, folder: Path) -> float:
    """The score on the second task after an eighth of its steps."""
    stage, names = run["stages"][1], run["config"]["tasks"][1]["evals"]
    scores = read_scores_of(folder, stage["fingerprint"])
    first = min(score["step"] for score in scores if score["step"] >= stage["steps"] * EARLY)
    return statistics.fmean(s["value"] for s in scores if s["step"] == first and s["evaluation"] in names)


def table(conditions: Sequence[Condition]) -> list[list[str]]:
    """A row per condition, header first; the margin is that of the worst task."""
    rows = [["", "condition", "", "least margin"]]
    for condition in conditions:
        worst = min(condition.margins, key=lambda name: condition.margins[name])
        verdict = "met" if condition.holds else "not met"
        rows.append([str(condition.number), condition.text, verdict, f"{condition.margins[worst]:+.3f} ({worst})"])
    return rows


def score_table(bed: Outcome) -> list[list[str]]:
    """A row per task, header first: mean scores over seeds, and the second task's share of its gain after an eighth of
    its steps."""
    mean = statistics.fmean
    header = ["task", "chance", "base", "alone", "multitask", *(f"after {name}" for name in bed.names), "early"]
    return [
        header,
        *(
            [
                name,
                *(
                    f"{value:.3f}"
                    for value in [
                        bed.chance[i],
                        mean(bed.base[i]),
                        mean(bed.alone[i]),
                        mean(bed.multitask[i]),
                        *(mean(stage[i]) for stage in bed.after),
                    ]
                ),
                f"{bed.early_share:.0%}" if i == 1 else "",
            ]
            for i, name in enumerate(bed.names)
        ),
    ]
