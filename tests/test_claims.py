"""The claims: intervals, distances from a curve and verdicts against hand-calculated numbers, and a small replay."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scripts import claims as command
from scripts.interval import half_width
from scripts.paper import claims, measured
from scripts.paper.claims import BEDS, CLAIMS, margin
from scripts.paper.measured import Runs
from scripts.paper.sweeps import read, read_file
from scripts.paper.verdicts import Quantity, decide

SWEEPS = claims.SWEEPS


def test_the_interval_is_students() -> None:
    values = [0.2, 0.5, 0.3, 0.7]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width([1.0, 2.0]) == pytest.approx(12.706 / 2, rel=1e-3)  # t of one degree of freedom


def test_verdicts_follow_the_interval() -> None:
    above, across, below = (Quantity("", values) for values in ([0.5, 0.6, 0.55], [-0.1, 0.2, 0.1], [-0.5, -0.6, -0.4]))
    assert [q.verdict for q in (above, across, below)] == ["holds", "undecided", "does not hold"]
    assert decide([above, above]) == "holds"
    assert decide([above, across]) == "undecided"
    assert decide([above, across, below]) == "does not hold"


def test_a_difference_of_less_than_two_points_is_none() -> None:
    narrow = [0.010, -0.012, 0.004, -0.006]  # a 95 % interval of −0.017 to 0.015
    equal, wide = Quantity("", narrow, 0.02), Quantity("", [3 * value for value in narrow], 0.02)
    assert decide([equal]) == "no difference"
    assert decide([wide]) == "undecided"
    assert decide([Quantity("", narrow)]) == "undecided"
    assert decide([Quantity("", [value + 0.02 for value in narrow], 0.02)]) == "holds"
    assert decide([Quantity("", [value - 0.02 for value in narrow], 0.02)]) == "does not hold"
    assert decide([equal, Quantity("", [1.0, 1.1])]) == "no difference"
    assert decide([equal, wide]) == "undecided"


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.5, 0.5), 0.25),  # the nearest is the middle of the first segment's end
        ((0.0, 0.5), 0.25),
        ((0.75, 0.75), 0.0),
        ((0.9, 0.75), -0.1125),
        ((1.2, 0.0), -0.2),
    ],
)
def test_the_distance_below_a_curve(point: tuple[float, float], expected: float) -> None:
    """From (1, 0) over (0.75, 0.75) to (0, 0.75), by hand and by trying a thousand of its points."""
    curve = [(1.0, 0.0), (0.75, 0.75), (0.0, 0.75)]
    dense = [
        min(a[0] + t * (b[0] - a[0]) - point[0], a[1] + t * (b[1] - a[1]) - point[1])
        for a, b in itertools.pairwise(curve)
        for t in np.linspace(0, 1, 1001)
    ]
    assert margin(point, curve) == pytest.approx(max(dense), abs=1e-3)
    assert margin(point, curve) == pytest.approx(expected, abs=1e-9)


def write_runs(folder: Path) -> Runs:
    """Two seeds of Math → Law with known numbers: SFA retains more of Math the smaller p is."""
    settings = {
        "sequential": (0.1, 0.9, 10.0),
        "sfa p=1": (0.2, 0.85, 5.0),
        "sfa p=0.75": (0.3, 0.8, 4.0),
        "sfa p=0.5": (0.5, 0.75, 3.0),
        "sfa p=0.25": (0.7, 0.74, 2.0),
        "sfa p=0.1": (0.75, 0.6, 1.0),
        "rehearsal fraction=0.05": (0.6, 0.8, 9.0),
        "rehearsal fraction=0.1": (0.9, 0.9, 9.0),
        "wise_ft beta=0.5": (0.2, 0.85, 5.0),
        "wise_ft beta=0.75": (0.6, 0.5, 3.0),
    }
    config = {
        "method": "sfa",
        "tasks": [{"name": name, "evals": [name], "evaluate_only": False} for name in ("math", "law")],
        "eval": {"tasks": None},
        "sfa": {"p": 0.25},
    }
    stage = {"method": "sfa", "fingerprint": "00000000000000f0", "steps": 2, "merge_steps": [], "seconds": 1.0}
    stage |= {"tokens": 1, "peak_bytes": 1, "stored_examples": 0}
    runs = []
    for label, (math, law, moved) in settings.items():
        for seed in (0, 1):
            shift = 0.01 * seed * (1 if label.startswith("sfa") else -1)
            numbers = {
                "base": (0.05, 0.3),
                "math": (0.8, 0.3),
                "law": (math + shift, law + shift),
            }
            name = re.sub("[^a-z0-9.]", "-", f"{label}-{seed}")
            results = {
                "name": name,
                "seed": seed,
                "config": config,
                "stages": [
                    {**stage, "task": "math", "l2_from_anchor": 20.0},
                    {**stage, "task": "law", "l2_from_anchor": moved},
                ],
                "evaluations": [
                    {"after": after, "evaluation": task, "metric": "acc", "value": value, "stderr": None, "n": 9}
                    for after, pair in numbers.items()
                    for task, value in zip(("math", "law"), pair, strict=True)
                ],
                "metrics": {"average": (math + law) / 2 + shift, "forgetting": 0.0, "backward_transfer": 0.0},
            }
            (folder / name).mkdir()
            (folder / name / "results.json").write_text(json.dumps(results))
            runs.append({"label": label, "point": {}, "seed": seed, "name": name, "order": None})
    (folder / "words.json").write_text(json.dumps({"sweep": "words", "runs": runs}))
    return Runs(folder, "words")


def test_the_quantities_of_two_tasks(tmp_path: Path) -> None:
    runs = write_runs(tmp_path)
    assert claims.forgets(runs)[0].values == pytest.approx([0.05, 0.06])
    retained, learned = claims.keeps(runs)
    assert retained.values == pytest.approx([0.65 / 0.75 - 0.6, 0.66 / 0.75 - 0.6])
    assert learned.values == pytest.approx([0.44 / 0.6 - 0.8, 0.45 / 0.59 - 0.8])
    rise, fall = claims.is_monotone(runs)
    assert "p=0.25 to 0.1" in rise.what and rise.values == pytest.approx([0.05, 0.05])
    assert "p=0.5 to 0.25" in fall.what and fall.values == pytest.approx([0.01, 0.01])
    distance, correlation = claims.moves_less(runs)
    assert distance.values == pytest.approx([1.0, 1.0])
    assert correlation.values[0] == pytest.approx(-np.corrcoef([10, 5, 3, 2, 1], [0.1, 0.2, 0.5, 0.7, 0.75])[0, 1])
    five, ten = claims.reaches_rehearsal(runs)
    assert "p=0.25" in five.what and five.values == pytest.approx([0.72 - 0.7 + 0.02, 0.73 - 0.69 + 0.02])
    assert ten.values == pytest.approx([0.72 - 0.9 + 0.02, 0.73 - 0.89 + 0.02])
    (near,) = claims.is_below(runs, "wise_ft")
    assert "beta=0.5" in near.what
    curve = [(0.8, 0.3), (0.75, 0.6), (0.7, 0.74), (0.5, 0.75), (0.3, 0.8), (0.1, 0.9)]
    assert near.values[0] == pytest.approx(margin((0.2, 0.85), curve))


def test_the_last_interval_and_the_first_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path)
    (interval,) = claims.depends_on_the_last_interval(runs)
    assert interval.values == pytest.approx([abs(0.3 - 0.35) - abs(0.3 - 0.7)] * 2)  # nearer to p=1 and p=0.5
    (ranks,) = claims.first_distance_predicts(runs)
    assert ranks.values == pytest.approx([1.0, 1.0])  # 10, 4, 3, 2, 1 against 0.2, 0.3, 0.5, 0.7, 0.75
    merged = runs.of("sfa p=0.5")[0]
    merged["stages"][1]["merge_steps"] = [1, 2]
    merges = [{"l2_before": 7.0}, {"l2_before": 9.0}]
    monkeypatch.setattr(measured, "read_manifest_of", lambda folder, fingerprint: {"merges": merges})
    assert runs.first_distance(merged) == 7.0


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 14, 15])
def test_a_claim_needs_no_run_but_those_it_names(number: int, tmp_path: Path) -> None:
    runs, claim = write_runs(tmp_path), CLAIMS[number]
    expected = claim.quantities(runs)
    runs.runs = {label: its for label, its in runs.runs.items() if claim.needs(label)}
    assert claim.quantities(runs) == expected


def test_a_gain_of_nothing_leaves_a_claim_undecided(tmp_path: Path) -> None:
    runs = write_runs(tmp_path)
    for run in runs.of("sfa p=0.25"):
        for row in run["evaluations"]:
            if row["after"] == "math" and row["evaluation"] == "math":
                row["value"] = 0.05
    assert decide(claims.keeps(runs)) == "undecided"


def test_every_claim_finds_its_runs_in_its_sweep() -> None:
    """The sweeps' files expand to the labels that the claims use."""
    names = {name for bed in BEDS.values() for name in bed.sweeps.values()}
    labels = {
        name: {run.label for run in read(SWEEPS / f"{name}.yaml", ["seeds=[1]", "dry_run=true"])} for name in names
    }
    for bed in ("words", "words_code", "benchmark"):
        assert {"sequential", *(f"sfa p={p}" for p in claims.ALL_P)} <= labels[bed]
        assert {"rehearsal fraction=0.05", "rehearsal fraction=0.1"} <= labels[bed]
        assert {"wise_ft", "task_arithmetic", "ties"} <= {label.split()[0] for label in labels[bed]}
    assert {"sequential", "sfa p=0.9", "sfa p=1"} <= labels["glyphs"]
    assert {"sequential", "sfa p=0.25", "wise_ft beta=0.5", "task_arithmetic"} <= labels["words_orders"]
    assert {f"sequential model.config.d_model={width}" for width in (64, 128)} <= labels["instructions"]
    for name in ("mnist", "words_penalties"):
        assert {"sfa", "l2", "ewc"} <= {label.split()[0] for label in labels[name]}
    kinds = {kind for bed in BEDS.values() for kind in bed.sweeps}
    assert {claim.runs for claim in CLAIMS.values()} == {*kinds, None}
    assert read_file(SWEEPS / "words_orders.yaml")[0].orders == [[0, 1, 2], [0, 2, 1]]


def test_the_identities_hold_and_mnist_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claim 10 on two steps of a run of each method, and all of claim 12."""
    text = "runs: [{method: sfa, sfa.every: 1ba, sfa.beta: [0.1, 0.9]}, {method: l2}, {method: ewc, ewc.strength: 1}]"
    (tmp_path / "mnist.yaml").write_text(f"config: {SWEEPS.parent / 'mnist.yaml'}\n{text}\n")
    monkeypatch.setattr(command, "SWEEPS", tmp_path)
    small = ["train.max_duration=2ba", "eval.limit=20", f"save_folder={tmp_path}"]
    assert (
        command.main(
            [
                *small,
                "--beds",
                "digits",
                "--only",
                "10",
                "12",
                "--seeds",
                "3",
                "4",
                "--out",
                str(tmp_path / "claims.md"),
            ]
        )
        == 0
    )
    table = re.sub(" +", " ", (tmp_path / "claims.md").read_text())  # the columns are padded
    assert "| 10 | digits |" in table and "| 10 | Each at its best setting" in table and "Seeds [3, 4]" in table
    assert re.search(r"\| 12 \| equations \| holds \|", table)
    assert command.main(["train.lrr=1", "--only", "10", "--beds", "digits"]) == 2
    assert "train.lrr: unknown key" in capsys.readouterr().err
