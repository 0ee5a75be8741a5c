"""The paper's tables: each of its numbers is in the project, and ours are next to them."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train
from scripts import sweep
from scripts import tables as command
from scripts.paper import tables
from scripts.paper.sweeps import read, read_file

YAMLS = Path(train.__file__).parent / "yamls"
SWEEPS = sorted((YAMLS / "sweeps").glob("table*.yaml"))
ROWS = {"table1": 15, "table3": 17, "table4": 12, "table5": 15, "table6": 11, "table7": 16}
TABLE = """config: {config}
set: {{train.max_duration: 4ba, eval.limit: 50}}
seeds: [3, 4]
table: {{title: A table, columns: [even_accuracy, odd_accuracy], original: [0.1, 0.2]}}
runs:
- {{row: plain, paper: [0.9, 0.3], paper_l2: 7, method: sequential}}
- {{row: all at once, paper: [0.8, 0.8], paper_l2: 9, method: multitask}}
- {{row: "half % of it", paper: [0.85, 0.2], paper_l2: 5, method: task_arithmetic,
   task_arithmetic.weights: [[0.7, 0.3]]}}
- {{row: never run, paper: [0.7, 0.1], method: l2}}
"""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_table_of_the_paper_is_a_sweep(path: Path) -> None:
    table = tables.load(path)
    assert len(table.rows) == ROWS[path.stem]
    assert all(len(row.paper) >= len(read_file(path)[0].table.columns) for row in table.rows)  # type: ignore[union-attr]
    assert all(0 <= row.paper[name] <= 1 for row in table.rows for name in row.paper if name != tables.L2)
    rows = [run.row["row"] for run in read(path)]
    assert len(rows) == len(set(rows)) == len(table.rows) - 1


def test_some_numbers_of_the_paper() -> None:
    """Read from its pages independently."""
    by_name = {path.stem: {row.name: row.paper for row in tables.load(path).rows} for path in SWEEPS}
    table1 = by_name["table1"]
    assert table1["Math → Law (p=0.25)"] == {
        "casehold": 0.67,
        "tos": 0.87,
        "overruling": 0.49,
        "gsm8k": 0.31,
        tables.L2: 24.16,
    }
    assert table1["rehearsal 10 %"][tables.L2] == 82.21 and table1["original"]["tos"] == 0.85
    assert by_name["table3"]["TIES"]["gsm8k"] == 0.014 and by_name["table4"]["rehearsal 5 %"]["gsm8k"] == 0.41
    assert by_name["table6"]["Code → Math (p=0.25)"] == {"humaneval": 0.22, "gsm8k": 0.36}
    assert by_name["table7"]["Math → Code → Law (p=0.25)"]["humaneval"] == 0.0012


def test_our_numbers_are_next_to_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweeps"
    folder.mkdir()
    text = TABLE.format(config=YAMLS / "mnist.yaml")
    (folder / "mine.yaml").write_text("".join(line for line in text.splitlines(keepends=True) if "never" not in line))
    arguments = [str(folder / "mine.yaml"), f"save_folder={tmp_path / 'runs'}"]
    assert sweep.main([*arguments, "--jobs", "2"]) == 0
    (folder / "mine.yaml").write_text(text)
    capsys.readouterr()
    assert command.main([*arguments, "--format", "csv"]) == 0
    lines = {line[0]: line[1:] for line in csv.reader(io.StringIO(capsys.readouterr().out))}
    runs = [json.loads((tmp_path / "runs" / f"mnist-sequential-{s}" / "results.json").read_text()) for s in (3, 4)]
    final = [
        row["value"]
        for run in runs
        for row in run["evaluations"]
        if (row["after"], row["evaluation"]) == ("odd", "odd_accuracy")
    ]
    mean = sum(final) / 2
    assert (
        lines["plain"][3] == "0.3"
        and lines["plain"][4].startswith(f"{mean:.3f} ± ")
        and lines["plain"][5] == f"{mean - 0.3:+.3f}"
    )
    base = [
        row["value"]
        for run in runs
        for row in run["evaluations"]
        if (row["after"], row["evaluation"]) == ("base", "odd_accuracy")
    ]
    assert lines["original"][4].startswith(f"{sum(base) / 2:.3f}")
    assert lines["never run"] == ["0.7", "", "", "0.1", "", "", "", "", ""] + [""] * len(tables.DIGITS)
    extra = dict(zip(lines[""][9:], lines["plain"][9:], strict=True))
    assert (
        list(extra) == list(tables.DIGITS)
        and extra["stored examples"] == "0"
        and float(extra["peak MiB"].split()[0]) > 100
    )
    average = sum(run["metrics"]["average"] for run in runs) / 2
    assert extra["average"].startswith(f"{average:.3f} ± ")
    stages = tmp_path / "runs" / "stages"
    merged = json.loads((tmp_path / "runs" / "mnist-task_arithmetic-weights-0.7-0.3-3" / "results.json").read_text())
    first, last = (
        load_file(stages / run["stages"][i]["fingerprint"] / "model" / "model.safetensors")
        for run, i in ((merged, -1), (runs[0], 0))
    )
    moved = float(sum(((first[name] - last[name]).double() ** 2).sum() for name in first)) ** 0.5
    row = tables.load(folder / "mine.yaml", arguments[1:]).rows[3]
    assert row.name == "half % of it" and row.ours[tables.L2][0] == pytest.approx(moved, rel=1e-6)
    for form, sign in (("latex", r"half \% of it & "), ("markdown", "| half % of it |"), ("text", "A table\n")):
        assert command.main([*arguments, "--format", form]) == 0
        assert sign.strip() in re.sub(" +", " ", capsys.readouterr().out)  # the columns are padded


def test_orders_count_pairs_that_differ_in_the_paper() -> None:
    rows = [
        tables.Row(str(i), {"a": p}, {"a": [o]} if o is not None else {})
        for i, (p, o) in enumerate([(0.1, 1.0), (0.2, 3.0), (0.2, 5.0), (0.3, 2.0), (0.9, None)])
    ]
    assert tables.orders(tables.Table("t", ["a"], rows)) == {"a": (3, 5)}
