"""What the report shows of results that are made up: tasks, losses, seeds, and what is missing."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from eval.kind import mean_score
from scripts import report
from scripts.page import by_task, gather, plane
from sfa.methods import METHODS


def results(name: str, method: str = "sfa", seed: int = 1, final: float = 0.6, is_loss: bool = False) -> dict[str, Any]:
    """A stream of two tasks, of 100 rows each: the first rises from 0.1 to 0.9 and ends with ``final``, and the second
    rises from 0.2 to 0.8. A loss is 2 less the score."""
    rows = []
    for after, values in {"base": (0.1, 0.2), "maths": (0.9, 0.2), "laws": (final, 0.8)}.items():
        for task, value in zip(("maths", "laws"), values, strict=True):
            score: dict[str, Any] = {**mean_score(task, "acc", (np.arange(100) < round(100 * value)).astype(float))}
            if is_loss:
                score = {"evaluation": task, "metric": "loss", "value": 2 - value, "stderr": None, "n": 100}
                score["lower_is_better"] = True
            rows.append({"after": after, **score})
    stage = {"method": method, "steps": 4, "merge_steps": [4], "l2_from_anchor": 1.0, "seconds": 1.0, "tokens": 1}
    stage |= {"peak_bytes": 1, "stored_examples": 0}
    tasks = [{"name": task, "evals": [task], "evaluate_only": False} for task in ("maths", "laws")]
    config = {"name": name, "method": method, "tasks": tasks, "eval": {"tasks": None}, "sfa": {"p": 0.25, "beta": 0.5}}
    stages = [{"task": task, "fingerprint": f"{i:016x}", **stage} for i, task in enumerate(("maths", "laws"))]
    return {"name": name, "seed": seed, "config": config, "stages": stages, "evaluations": rows, "metrics": None}


def write(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results(folder.name, **options)))
    return folder


def group(*places: Path) -> gather.Group:
    (found,), _ = gather.gather(places)
    return found


def row(table: by_task.TaskTable) -> dict[str, str]:
    """The first row's cells by column, without arrows."""
    return {
        name.rstrip("\N{NO-BREAK SPACE}↑↓"): cell for name, cell in zip(table["head"], table["rows"][0], strict=True)
    }


def test_each_task_has_its_forgetting_its_gain_and_the_rows_that_changed(tmp_path: Path) -> None:
    first, last = by_task.tables(group(write(tmp_path / "run")))
    cells = row(first)
    expected = {"base": "0.100", "new task score": "0.900", "at the end": "0.600", "forgetting": "0.300"}
    expected |= {"gain kept": f"{0.5 / 0.8:.3f}", "rows lost": "30", "rows gained": "0"}
    assert {name: cells[name] for name in expected} == expected
    assert float(cells["McNemar’s p"]) == pytest.approx(2 * 0.5**30, rel=0.05)
    assert row(last) == {"setting": "run", "base": "0.200", "new task score": "0.800", "at the end": "0.800"}


def test_a_loss_that_rises_is_forgotten(tmp_path: Path) -> None:
    first, _ = by_task.tables(group(write(tmp_path / "run", is_loss=True)))
    assert (row(first)["at the end"], row(first)["forgetting"], row(first)["gain kept"]) == ("1.400", "0.300", "0.625")
    assert first["is_loss"] and "at the end\N{NO-BREAK SPACE}↓" in first["head"]
    assert plane.plane(group(tmp_path / "run"))["losses"] == ["maths", "laws"]
    assert "average loss\N{NO-BREAK SPACE}↓" in report.page([tmp_path / "run"])[0]


def test_a_matrix_is_the_mean_over_seeds_with_a_row_per_task(tmp_path: Path) -> None:
    folders = [write(tmp_path / f"run-{seed}", seed=seed, final=final) for seed, final in ((17, 0.5), (18, 0.7))]
    (matrix,) = by_task.matrices(group(*folders))
    assert (matrix["label"], matrix["stages"], matrix["runs"]) == ("run, 2 seeds", ["base", "maths", "laws"], 2)
    assert np.allclose(np.array(matrix["values"], float), [[0.1, 0.9, 0.6], [0.2, 0.2, 0.8]])
    first, _ = by_task.tables(group(*folders))
    half = 12.706 * 0.1  # Student's t with one degree of freedom, and the standard error of 0.5 and 0.7
    assert row(first)["at the end"] == f"0.600 ± {half:.3f}"
    assert len(row(first)["McNemar’s p"].split(", ")) == 2


def test_every_point_has_a_label(tmp_path: Path) -> None:
    """What sets it apart from others of its method; of a single one, its method's own settings."""
    label = "sequential tasks.0.evaluate_only=True"
    points: list[dict[str, Any]] = [
        {"method": "sfa", "sfa.p": 0.5, "sfa.beta": 0.2},
        {"method": "sfa", "sfa.p": 0.25, "sfa.beta": 0.2},
        {"method": "wise_ft", "wise_ft.beta": 0.3},
        {"method": "task_arithmetic", "task_arithmetic.weights": [0.5, 1]},
        {"method": "multitask"},
        {"method": "sequential", "tasks.0.evaluate_only": True},
    ]
    runs = []
    for i, point in enumerate(points):
        write(tmp_path / f"run{i}", method=point["method"])
        runs.append({"label": label if i == 5 else f"{i}", "point": point, "seed": 1, "name": f"run{i}"})
    content = json.loads((tmp_path / "run5" / "results.json").read_text())
    content["config"]["tasks"][0]["evaluate_only"] = True
    (tmp_path / "run5" / "results.json").write_text(json.dumps(content))
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "sweep", "runs": runs}))
    drawn = plane.plane(group(tmp_path / "sweep.json"))
    labels = [point["settings"] for point in drawn["points"]]
    assert labels == ["p=0.5", "p=0.25", "β=0.3", "weights=0.5:1", "multitask", "only laws"]
    assert drawn["lines"] == [[1, 0]]
    assert plane.plane(group(tmp_path / "run0"))["points"][0]["settings"] == "p=0.25"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_drawn_as_in_figures(method: str) -> None:
    own, drawn = METHODS[method].look.style, plane.style(method)
    assert drawn["colour"] in (own["color"], own.get("markeredgecolor")) or drawn["colour"].startswith("rgb(")
    assert drawn["symbol"].endswith("-open") == (own["color"] == "white")


def test_what_is_missing_is_one_line_each_and_the_rest_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of results on its own, a run that is not there, and a sweep of which a run was not made."""
    write(tmp_path / "run")
    listed = [{"label": "sfa", "point": {"method": "sfa"}, "seed": 1, "name": name} for name in ("run", "later")]
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "sweep", "runs": listed}))
    (tmp_path / "torn.json").write_text("{")
    places = [tmp_path / name for name in ("run/results.json", "gone/results.json", "sweep.json", "torn.json")]
    assert report.main([*map(str, places), "--out", str(tmp_path / "report.html")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("left out: ") for line in lines) and len(lines) == 7
    for part in ("gone was not found", "no results of later", "torn.json is torn", "hardware and date of run: "):
        assert sum(part in line for line in lines) == (2 if "hardware" in part else 1)
    assert sum("scores during training of run: " in line for line in lines) == 2
    page = (tmp_path / "report.html").read_text()
    assert "gone was not found" in page and page.count("<section") == 2


def test_runs_of_other_tasks_have_a_section_of_their_own(tmp_path: Path) -> None:
    content = results("other")
    content["config"]["tasks"] = content["config"]["tasks"][:1]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text(json.dumps(content))
    groups, _ = gather.gather([write(tmp_path / "run"), tmp_path / "other"])
    assert [found.name for found in groups] == ["runs: maths → laws", "runs: maths"]


def test_formulas_need_no_letters_that_fonts_lack(tmp_path: Path) -> None:
    page, _ = report.page([write(tmp_path / "run")])
    text = page.partition("How the numbers are counted")[2].partition("<script>")[0]
    assert "a<sub>ij</sub>" in text and "a<sub>j−1,j</sub>" in text
    assert not set(text) & set("ᵢⱼₙ₀₁₋₍₎﹤﹥")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (["quickstart-p.json", "a/results.json"], "runs/quickstart-p.json --out"),
        (["a/results.json"], "runs/a/results.json --out"),
    ],
)
def test_make_reports_every_sweep_or_else_every_run(made: list[str], expected: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("pyproject.toml", "constraints.txt", "tests/trainers.txt", *(f"runs/{name}" for name in made)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    makefile = Path(train.__file__).parent / "Makefile"
    words = ["make", "--dry-run", "-f", str(makefile), "report"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"scripts.report {expected}" in said
