"""Cells of text as a table in Markdown, LaTeX or CSV, in which no cell means anything but its text."""

import csv
import io
import re
from collections.abc import Sequence

Lines = Sequence[Sequence[str]]  # the first is the head

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "→": r"$\to$", "±": r"$\pm$",
    "β": r"$\beta$", "λ": r"$\lambda$", "\n": " ",
}  # fmt: skip


def markdown(lines: Lines) -> str:
    rows = [f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines]
    return "\n".join([rows[0], f"|{'---|' * len(lines[0])}", *rows[1:]])


def latex(lines: Lines) -> str:
    """A ``tabular`` whose first column is left-aligned."""
    body = "\n".join(" & ".join(map(_latex_cell, line)) + r" \\" for line in lines)
    return f"\\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}\n{body}\n\\end{{tabular}}\n"


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


def _markdown_cell(cell: str) -> str:
    signs = {"\\": r"\\", "|": r"\|", "<": "&lt;", ">": "&gt;", "`": r"\`", "*": r"\*", "[": r"\[", "\n": " "}
    return "".join(signs.get(sign, sign) for sign in cell)


def _latex_cell(cell: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in cell)


def _csv_cell(cell: str) -> str:
    number = re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?( ± [0-9.]+)?", cell)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")) and not number else cell
