"""Tables of text cells for a terminal, in Markdown, LaTeX or CSV, with everything in a cell escaped."""

import csv
import io
import re
import shutil
import textwrap
from collections.abc import Sequence

from tabulate import tabulate

Lines = Sequence[Sequence[str]]  # the first is the header
GAP = 2  # between columns, in characters

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "→": r"$\to$", "±": r"$\pm$",
    "β": r"$\beta$", "λ": r"$\lambda$", "\n": " ",
}  # fmt: skip


def plain(lines: Lines, width: int, together: int = 1) -> str:
    """For a terminal: the first column is left-aligned, the others are right-aligned, as in LaTeX. A table that is
    wider than ``width`` characters becomes several, see :func:`parts`."""
    tables = [
        tabulate(_with_breaks(part), tablefmt="plain", disable_numparse=True, colalign=_alignment(part))
        for part in parts(lines, width, GAP, together)
    ]
    return "\n\n".join(tables)


def terminal_width() -> int:
    """The width of the terminal in characters; 100 if there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def turned(lines: Lines) -> list[list[str]]:
    """The table with its rows as columns."""
    return [list(line) for line in zip(*lines, strict=True)]


def parts(lines: Lines, width: int, gap: int, together: int = 1) -> list[list[list[str]]]:
    """A table as several of at most ``width`` characters, if that is possible: each has the first column, and as many
    of the others as fit.

    Args:
        lines: the table.
        width: of the terminal.
        gap: characters between two columns.
        together: number of neighbouring columns that stay in one table.
    """
    first, *others = column_widths(lines)
    starts = range(0, len(others), together)
    tables: list[list[int]] = []
    room = -1
    for start in starts:
        group = list(range(start, min(start + together, len(others))))
        needed = sum(others[i] + gap for i in group)
        if needed > room:
            tables.append([])
            room = width - first
        tables[-1] += group
        room -= needed
    return [[[line[0], *(line[1 + i] for i in table)] for line in lines] for table in tables or [[]]]


def paragraphs(notes: Sequence[str], width: int) -> str:
    """Notes as a list, broken to ``width`` characters."""
    style = {"initial_indent": "- ", "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(note, width, **style) for note in notes)  # type: ignore[arg-type]


def column_widths(lines: Lines) -> list[int]:
    """The characters that each column needs, with its header broken between words."""
    head, *rows = lines
    words = [max(map(len, cell.split()), default=0) for cell in head]
    return [max(word, *(len(row[i]) for row in rows), 0) for i, word in enumerate(words)]


def _with_breaks(lines: Lines) -> list[list[str]]:
    widths = column_widths(lines)
    head = ["\n".join(textwrap.wrap(cell, max(1, width))) for cell, width in zip(lines[0], widths, strict=True)]
    return [head, *map(list, lines[1:])]


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
