"""Tables of arbitrary text: no cell becomes markup, a formula or another column."""

import csv
import io

import pytest
from rich.console import Console

from scripts import cells
from scripts.compare import as_table, as_tables

NAMES = [f"words-code-task_arithmetic-weights-0.{i}-17" for i in range(9)]
METRICS = ["arithmetic", "returns", "average", "backward transfer", "L2 from anchor", "seconds of training", *"abcdef"]
HOSTILE = ["a|b", "[bold]x[/x]", "=1+1", "@SUM(A1)", "50 % & #1 $ {x} ~ ^ \\ _", "<b>", "`code`", "two\nlines"]


def test_markdown_keeps_columns_and_text() -> None:
    text = cells.markdown([["", *HOSTILE], ["row", *HOSTILE]])
    lines = text.splitlines()
    assert len(lines) == 3
    for line in (lines[0], lines[2]):
        assert line.replace(r"\|", "").count("|") == len(HOSTILE) + 2
        assert "<b>" not in line and "two lines" in line


def test_latex_escapes_every_special_character() -> None:
    text = cells.latex([["", *HOSTILE]])
    assert r"50 \% \& \#1 \$ \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \_" in text
    assert text.count(" & ") == len(HOSTILE)


def test_csv_holds_no_formula() -> None:
    line = ["=1+1", "+1", "-0.123", "-0.5 ± 0.1", "@x", " =x", "-x", "1e-3"]
    (read,) = csv.reader(io.StringIO(cells.comma_separated([line])))
    assert read == ["'=1+1", "+1", "-0.123", "-0.5 ± 0.1", "'@x", "' =x", "'-x", "1e-3"]


@pytest.mark.parametrize("text", ["plain", "a `b` c", "``"])
def test_code_ends_where_it_should(text: str) -> None:
    fenced = cells.code(text)
    fence = fenced[: len(fenced) - len(fenced.lstrip("`"))]
    assert fenced.endswith(fence) and fence not in text and text in fenced


def test_a_terminal_shows_names_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(as_table([["", "run[/x]"], ["[names]", "[bold]1[/bold]"]]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "run[/x]" in printed and "[names]" in printed and "[bold]1[/bold]" in printed


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("runs", [2, 5, 9])
def test_a_comparison_of_long_names_or_many_runs_fits_the_terminal(width: int, runs: int) -> None:
    lines = [["", *NAMES[:runs]], *([metric, *["0.812 ± 0.123"] * runs] for metric in METRICS)]
    console = Console(file=io.StringIO(), width=width)
    for table in as_tables(lines, width):
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= width
    assert all(name in printed for name in NAMES[:runs]), "names are whole"
    words = {word for metric in METRICS for word in metric.split()}
    assert words <= {*printed.replace("┃", " ").replace("│", " ").split()}, "no word is cut"
    assert printed.count("0.812") == runs * len(METRICS)
    assert f"│ {NAMES[0]} " in printed, "a row per run"


def test_a_small_comparison_has_a_column_per_run() -> None:
    (table,) = as_tables([["", "plain", "mine"], ["average", "0.1", "0.2"]], 80)
    assert [str(column.header) for column in table.columns] == ["", "plain", "mine"]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_plain_table_is_cut_between_columns_and_repeats_the_first(width: int) -> None:
    head = ["", *(f"{name}, {of}" for name in ("casehold", "gsm8k", "tos") for of in ("paper", "ours", "difference"))]
    lines = [head, ["Math → Law (p=0.25)", *map(str, range(100, 109))], ["original", *map(str, range(200, 209))]]
    text = cells.plain(lines, width, together=3)
    assert max(map(len, text.splitlines())) <= width
    tables = text.split("\n\n")
    assert all(table.count("Math → Law (p=0.25)") == 1 and table.count("original") == 1 for table in tables)
    assert [number for table in tables for number in table.split() if number.startswith("10")] == [
        *map(str, range(100, 109))
    ]
    assert all(len(table.splitlines()[-1].split()) % 3 == 1 for table in tables), (
        "paper, ours and difference stay together"
    )


def test_a_table_that_cannot_fit_is_one_column_at_a_time() -> None:
    assert cells.parts([["", "a", "b"], ["x" * 50, "1", "2"]], 20, 2) == [
        [["", "a"], ["x" * 50, "1"]],
        [["", "b"], ["x" * 50, "2"]],
    ]
    assert cells.parts([["only"], ["x"]], 20, 2) == [[["only"], ["x"]]]
