"""The paper's claims as quantities of runs that must be above 0."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from scripts.paper.measured import Runs, final, score, share, share_kept
from scripts.paper.verdicts import POINTS, Point, Quantity, decide

SWEEPS = Path(__file__).parent.parent.parent / "yamls" / "sweeps"


def margin(point: Point, curve: Sequence[Point]) -> float:
    """How much both scores of ``point`` can rise until no point of the polyline ``curve`` is at least as good on both;
    negative if none is already."""
    best = -np.inf
    for a, b in itertools.pairwise(curve):
        above = [(s[0] - point[0], s[1] - point[1]) for s in (a, b)]
        (ax, ay), (bx, by) = above
        ends = [0.0, 1.0]
        turn = (bx - ax) - (by - ay)
        if turn and 0 < (ay - ax) / turn < 1:
            ends.append((ay - ax) / turn)
        best = max(best, *(min(ax + t * (bx - ax), ay + t * (by - ay)) for t in ends))
    return float(best)


def smallest(quantities: Sequence[Quantity]) -> Quantity:
    return min(quantities, key=lambda quantity: statistics.fmean(quantity.values))


ALL_P = [1, 0.75, 0.5, 0.25, 0.1]
P = [1, 0.5, 0.25, 0.1]  # those of Table 1; claim 14 is about 0.75


def forgets(runs: Runs) -> list[Quantity]:
    lost = [0.10 - (final(run)[0] - score(run, 0, -1)) for run in runs.of("sequential")]
    return [Quantity(f"0.10 − (sequential's {runs.first} at the end − the base's)", lost)]


def keeps(runs: Runs) -> list[Quantity]:
    runs_by_seed = list(zip(runs.of("sequential"), runs.of("sfa p=0.25"), strict=True))
    retained = [share_kept(ours) for _, ours in runs_by_seed]
    learned = [
        share(final(ours)[1] - score(ours, 1, -1), final(plain)[1] - score(plain, 1, -1))
        for plain, ours in runs_by_seed
    ]
    return [
        Quantity(
            f"share of the gain on {runs.first} that SFA, p=0.25, keeps − 0.60", [share - 0.6 for share in retained]
        ),
        Quantity(f"its gain on {runs.second} as a share of sequential's − 0.80", [share - 0.8 for share in learned]),
    ]


def is_monotone(runs: Runs) -> list[Quantity]:
    ends = [[final(run) for run in runs.of(f"sfa p={p}")] for p in P]
    steps = [(f"p={large} to {small}", before, after) for large, small, before, after in _steps(P, ends)]
    more = [Quantity(f"{runs.first}, {w}", [a[0] - b[0] for b, a in zip(x, y, strict=True)]) for w, x, y in steps]
    less = [Quantity(f"{runs.second}, {w}", [b[1] - a[1] for b, a in zip(x, y, strict=True)]) for w, x, y in steps]
    return [
        Quantity(f"smallest rise: {smallest(more).what}", smallest(more).values, POINTS),
        Quantity(f"smallest fall: {smallest(less).what}", smallest(less).values, POINTS),
    ]


def _steps(names: Sequence[Any], values: Sequence[Any]) -> list[tuple[Any, Any, Any, Any]]:
    return list(zip(names, names[1:], values, values[1:], strict=False))


def moves_less(runs: Runs) -> list[Quantity]:
    labels = ["sequential", *(f"sfa p={p}" for p in P)]
    distances = [[run["stages"][1]["l2_from_anchor"] for run in runs.of(label)] for label in labels]
    maths = [[final(run)[0] for run in runs.of(label)] for label in labels]
    falls = [
        Quantity(f"{a} to {b.removeprefix('sfa ')}", [x - y for x, y in zip(before, after, strict=True)])
        for a, b, before, after in _steps(labels, distances)
    ]
    correlation = [-float(np.corrcoef(x, y)[0, 1]) for x, y in zip(zip(*distances), zip(*maths), strict=True)]  # noqa: B905
    return [
        Quantity(f"smallest fall of the distance: {smallest(falls).what}", smallest(falls).values),
        Quantity(f"−correlation of distance and {runs.first}", correlation),
    ]


def reaches_rehearsal(runs: Runs) -> list[Quantity]:
    best = max((f"sfa p={p}" for p in ALL_P), key=lambda label: statistics.fmean(runs.averages(label)))
    return [
        Quantity(
            f"average of SFA, {best.removeprefix('sfa ')} (its best) − rehearsal with {fraction:.0%} + 0.02",
            [
                a - b + 0.02
                for a, b in zip(runs.averages(best), runs.averages(f"rehearsal fraction={fraction}"), strict=True)
            ],
        )
        for fraction in (0.05, 0.1)
    ]


def is_below(runs: Runs, method: str) -> list[Quantity]:
    """The setting of ``method`` closest to SFA's curve, which goes from the anchor, over p from small to just below 1,
    to sequential training."""
    curves = [
        [(score(plain, 0, 0), score(plain, 1, 0)), *map(final, over_p), final(plain)]
        for plain, *over_p in zip(
            runs.of("sequential"), *(runs.of(f"sfa p={p}") for p in reversed(ALL_P) if p < 1), strict=True
        )
    ]
    margins = [
        Quantity(label, [margin(final(run), curve) for run, curve in zip(runs.of(label), curves, strict=True)])
        for label in runs.labels(method)
    ]
    near = smallest(margins)
    what = f"distance below SFA's curve of the nearest of {len(margins)}, {near.what}"
    return [Quantity(what, near.values, POINTS)]


def depends_on_the_last_interval(runs: Runs) -> list[Quantity]:
    """The last interval is a quarter of the steps for p=0.75 as for p=0.25, a half for p=0.5, and all for p=1."""
    first = {p: [final(run)[0] for run in runs.of(f"sfa p={p}")] for p in (1, 0.75, 0.5, 0.25)}
    nearer = [
        abs(between - (one + half) / 2) - abs(between - quarter)
        for one, between, half, quarter in zip(first[1], first[0.75], first[0.5], first[0.25], strict=True)
    ]
    what = f"{runs.first}, p=0.75: distance from the mean of p=1 and p=0.5 − distance from p=0.25"
    return [Quantity(what, nearer)]


def first_distance_predicts(runs: Runs) -> list[Quantity]:
    """The distance from θ_o when SFA first merges against the share of the first task that is kept, over p."""
    merged_at_end, *others = [runs.of(f"sfa p={p}") for p in ALL_P]
    ranks = []
    for plain, once, *rest in zip(runs.of("sequential"), merged_at_end, *others, strict=True):
        distances = [runs.first_distance(run) for run in (plain, *rest)]  # p=1 merges the plain training
        ranks.append(-float(spearmanr(distances, [share_kept(run) for run in (once, *rest)]).statistic))
    return [Quantity(f"−rank correlation of the distance at the first merge and the share of {runs.first} kept", ranks)]


def stream_orders(runs: Runs) -> list[Quantity]:
    comparisons = [("sfa p=0.9", "sfa p=1"), ("sfa p=1", "sequential")]
    return [Quantity(f"average of {a} − {b}", _less(runs.averages(a), runs.averages(b))) for a, b in comparisons]


def best_settings(runs: Runs) -> list[Quantity]:
    average = {}
    for method in ("sfa", "l2", "ewc"):
        converged = {
            label: runs.averages(label)
            for label in runs.labels(method)
            if all(np.isfinite(run["stages"][-1]["l2_from_anchor"]) for run in runs.of(label))
        }
        best = max(converged, key=lambda label: statistics.fmean(converged[label]))
        average[method] = (best, converged[best])
    comparisons = [("sfa", "l2"), ("l2", "ewc")]
    return [
        Quantity(f"{average[a][0]} − {average[b][0]}", _less(average[a][1], average[b][1]), POINTS)
        for a, b in comparisons
    ]


def _less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def keeps_both(runs: Runs) -> list[Quantity]:
    quantities = []
    for order, name in (([0, 1, 2], "Math → Law → Code"), ([0, 2, 1], "Math → Code → Law")):
        others = ("sequential", "wise_ft beta=0.5", "task_arithmetic")
        mean = {
            label: [statistics.fmean(final(run)) for run in runs.of(label, order)] for label in ("sfa p=0.25", *others)
        }
        for other in others:
            what = f"{name}: mean of the first two, SFA p=0.25 − {other}"
            quantities.append(Quantity(what, _less(mean["sfa p=0.25"], mean[other])))
    return quantities


def rises(runs: Runs) -> list[Quantity]:
    quantities = []
    for width in (64, 128):
        results = runs.of(f"sequential model.config.d_model={width}")
        for k in range(1, len(results[0]["stages"])):
            rise = [score(run, 0, k) - score(run, 0, k - 1) for run in results]
            quantities.append(
                Quantity(f"width {width}: {runs.first}'s loss after {results[0]['stages'][k]['task']} − before", rise)
            )
    return quantities


def identities(seeds: Sequence[int]) -> list[Quantity]:
    """SFA after every step of SGD against L2 regression (eqs. 3 and 7), and a step on EWC's penalty against a merge
    weighted by the Fisher information (eqs. 13 and 14), on random problems in float64."""
    from sfa.anchor import Anchor
    from sfa.penalties import add_gradient

    eta, strength, iterates, steps = 0.1, 0.7, [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x, y, start = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((64, 8), (64,), (8,)))
        merged, penalized, anchor = start.clone(), start.clone(), Anchor({"w": start}, "cpu")
        for rows in torch.arange(64).view(16, 4):
            gradients = [2 * x[rows].T @ (x[rows] @ w - y[rows]) / 4 for w in (merged, penalized)]
            merged -= eta / (1 - eta * strength) * gradients[0]
            anchor.merge_into({"w": merged}, eta * strength)
            add_gradient("l2", strength, {"w": gradients[1]}, {"w": penalized}, anchor.shards)
            penalized -= eta * gradients[1]
        iterates.append(float((merged - penalized).norm() / (penalized - start).norm()))
        fisher, step = torch.rand(8, generator=generator, dtype=torch.float64), torch.zeros_like(start)
        add_gradient("ewc", strength, {"w": step}, {"w": merged}, anchor.shards, {"w": fisher})
        weight = eta * strength * fisher
        expected = (1 - weight) * merged + weight * start
        steps.append(float((merged - eta * step - expected).norm() / (expected - start).norm()))
    return [
        Quantity("1e-12 − relative difference of SFA after every step and L2", [1e-12 - d for d in iterates]),
        Quantity("1e-12 − relative difference of EWC's step and the merge", [1e-12 - d for d in steps]),
    ]


@dataclass(frozen=True)
class Bed:
    """Sweeps on one base model and its tasks, whose stream meets the conditions of :mod:`scripts.paper.beds`.

    Attributes:
        sweeps: names of sweep files, by what their runs are: ``two`` tasks with all methods, ``three`` in two orders,
            ``penalties``, a ``stream`` of images, or ``instructions``.
        first, second: what the first two tasks are about.
    """

    sweeps: dict[str, str]
    first: str = "Math"
    second: str = "Law"


BEDS = {
    "words": Bed({"two": "words", "penalties": "words_penalties"}),
    "words_code": Bed({"two": "words_code"}, "Math", "Code"),
    "words_three": Bed({"three": "words_orders"}),
    "benchmark": Bed({"two": "benchmark"}, "DBpedia", "AG News"),
    "digits": Bed({"two": "digits", "penalties": "mnist"}, "even", "odd"),
    "glyphs": Bed({"stream": "glyphs"}),
    "instructions": Bed({"instructions": "instructions"}),
}


@dataclass(frozen=True)
class Claim:
    """A claim, and the quantities that decide it.

    Attributes:
        runs: the kind of sweep that it needs; ``None`` for none.
        labels: shell patterns of the labels of the sweep's runs that it needs.
    """

    text: str
    runs: str | None
    quantities: Callable[[Any], list[Quantity]]
    labels: tuple[str, ...] = ("*",)

    def needs(self, label: str) -> bool:
        return any(fnmatchcase(label, pattern) for pattern in self.labels)


OVER_P = ("sequential", *(f"sfa p={p}" for p in ALL_P))


CLAIMS = {
    1: Claim(
        "Sequential fine-tuning forgets: task 1 falls to within 10 points of the base", "two", forgets, ("sequential",)
    ),
    2: Claim(
        "SFA with p=0.25 keeps at least 60 % of the gain on task 1 and 80 % of that on task 2",
        "two",
        keeps,
        ("sequential", "sfa p=0.25"),
    ),
    3: Claim(
        "Smaller p: more of task 1, less of task 2, monotonically", "two", is_monotone, tuple(f"sfa p={p}" for p in P)
    ),
    4: Claim("The distance from the anchor falls with p, and task 1 with the distance", "two", moves_less, OVER_P),
    5: Claim(
        "SFA's best p is within 2 points of rehearsal, without stored data",
        "two",
        reaches_rehearsal,
        ("sfa *", "rehearsal *"),
    ),
    6: Claim(
        "No β of WiSE-FT reaches SFA's curve over p",
        "two",
        lambda runs: is_below(runs, "wise_ft"),
        (*OVER_P, "wise_ft *"),
    ),
    7: Claim(
        "No weights of Task Arithmetic reach it",
        "two",
        lambda runs: is_below(runs, "task_arithmetic"),
        (*OVER_P, "task_arithmetic *"),
    ),
    8: Claim("TIES does not reach it", "two", lambda runs: is_below(runs, "ties"), (*OVER_P, "ties *")),
    9: Claim("Twenty tasks of images: SFA with p just under 1 > p=1 > sequential", "stream", stream_orders),
    10: Claim("Each at its best setting: SFA > L2 > EWC", "penalties", best_settings, ("sfa*", "l2*", "ewc*")),
    11: Claim("Three domains, both orders: SFA keeps the first two better than the others", "three", keeps_both),
    12: Claim("SFA after every step is L2 regression; EWC's step is a Fisher-weighted merge", None, identities),
    13: Claim("A stream of instruction tasks: the first one's loss rises with every task", "instructions", rises),
    14: Claim(
        "The last interval decides how much is kept: p=0.75 does as p=0.25 does",
        "two",
        depends_on_the_last_interval,
        OVER_P,
    ),
    15: Claim("The distance at the first merge predicts what is kept", "two", first_distance_predicts, OVER_P),
}


Decided = dict[tuple[int, str], list[Quantity]]  # by claim and bed


def matrix(decided: Decided) -> list[list[str]]:
    """A row per claim and a column per bed with their verdicts, header first."""
    beds = list(dict.fromkeys(bed for _, bed in decided))
    rows = [["", "claim", *beds]]
    for number in dict.fromkeys(number for number, _ in decided):
        verdicts = [decide(decided[number, bed]) if (number, bed) in decided else "–" for bed in beds]
        rows.append([str(number), CLAIMS[number].text, *verdicts])
    return rows


def table(decided: Decided) -> list[list[str]]:
    """A row per quantity, header first; each verdict is in the first row of its claim and bed."""
    lines = [["", "bed", "verdict", "must be above 0", "mean", "95 % interval"]]
    for (number, bed), quantities in decided.items():
        for i, quantity in enumerate(quantities):
            first = [str(number), bed, decide(quantities)] if i == 0 else [""] * 3
            numbers = [statistics.fmean(quantity.values), *quantity.interval]
            mean, low, high = (f"{n:+.3f}" if abs(n) > 1e-4 else f"{n:+.0e}" for n in numbers)
            lines.append([*first, quantity.what, mean, f"{low} to {high}"])
    return lines
