"""Cells of text as a table for a terminal, in Markdown, LaTeX or CSV, in which no cell is anything but its text."""

import csv
import io
import re
from collections.abc import Sequence

from tabulate import tabulate

Lines = Sequence[Sequence[str]]  # the first is the head

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "→": r"$\to$", "±": r"$\pm$",
    "β": r"$\beta$", "λ": r"$\lambda$", "\n": " ",
}  # fmt: skip


def plain(lines: Lines) -> str:
    """The first column is left-aligned, as in LaTeX, and the numbers of the others lie below each other."""
    table: str = tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=_alignment(lines))
    return table


def markdown(lines: Lines) -> str:
    head, *rows = [[_markdown_cell(cell) for cell in line] for line in lines]
    table: str = tabulate(rows, head, tablefmt="github", disable_numparse=True)
    return table


def latex(lines: Lines) -> str:
    """A ``tabular``."""
    escaped = [[_latex_cell(cell) for cell in line] for line in lines]
    return f"{tabulate(escaped, tablefmt='latex_raw', disable_numparse=True, colalign=_alignment(lines))}\n"


def comma_separated(lines: Lines) -> str:
    """CSV. A spreadsheet would take a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, so it has an
    apostrophe before it, unless it is a number."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_csv_cell(cell) for cell in line] for line in lines)
    return stream.getvalue()


def code(text: str) -> str:
    """``text`` as Markdown's inline code, between more backticks than it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def _alignment(lines: Lines) -> list[str]:
    return ["left", *["right"] * (len(lines[0]) - 1)]


def _markdown_cell(cell: str) -> str:
    signs = {"\\": r"\\", "|": r"\|", "<": "&lt;", ">": "&gt;", "`": r"\`", "*": r"\*", "[": r"\[", "\n": " "}
    return "".join(signs.get(sign, sign) for sign in cell)


def _latex_cell(cell: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in cell)


def _csv_cell(cell: str) -> str:
    number = re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?( ± [0-9.]+)?", cell)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")) and not number else cell
