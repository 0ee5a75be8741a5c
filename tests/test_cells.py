"""Tables of arbitrary text: no cell becomes markup, a formula or another column."""

import csv
import io

import pytest
from rich.console import Console

from scripts import cells
from scripts.compare import as_table

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
