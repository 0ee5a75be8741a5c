"""Tables of text cells for a terminal, in Markdown, LaTeX or CSV, with everything in a cell escaped."""

import csv
import io
import re
from collections.abc import Sequence

from tabulate import tabulate

Lines = Sequence[Sequence[str]]  # the first is the header

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "→": r"$\to$", "±": r"$\pm$",
    "β": r"$\beta$", "λ": r"$\lambda$", "\n": " ",
}  # fmt: skip


def plain(lines: Lines) -> str:
    """For a terminal: the first column is left-aligned, the others are right-aligned, as in LaTeX."""
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
    """CSV. Cells that begin with ``=``, ``+``, ``-`` or ``@`` and are not numbers get an apostrophe, so that a
    spreadsheet does not evaluate them as formulas."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_csv_cell(cell) for cell in line] for line in lines)
    return stream.getvalue()


def code(text: str) -> str:
    """``text`` as Markdown inline code, fenced with more backticks than it contains."""
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
