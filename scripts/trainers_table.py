"""Writes the table of tested trainers in docs/trainers.md from the outcome of the tests.

    $ python -m pytest tests --junitxml report.xml && python -m scripts.trainers_table report.xml

A test names the cells that it covers with ``@pytest.mark.cell("trainer, parallelism, weights, precision")``. A cell is
in the table if a test of it passed and none failed; one that was skipped does not count.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).parent.parent / "docs" / "trainers.md"
PARALLELISM = ["one process", "DDP", "FSDP1", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
TRAINERS = ["plain loop", "Accelerate", "Trainer", "TRL", "Lightning", "axolotl"]
WEIGHTS = ["full", "LoRA", "QLoRA"]
PRECISIONS = ["fp32", "bf16"]
_TABLE = re.compile(r"(?<=<!-- trainers -->\n)(?:\|.*\n)*")


def render(cells: Iterable[str]) -> str:
    """The table as Markdown: a row for each trainer and kind of weights, a column for each kind of parallelism.

    Args:
        cells: tested combinations, ``"trainer, parallelism, weights, precision"``.

    Raises:
        ValueError: a combination has no place in the table.
    """
    found = {tuple(cell.split(", ")) for cell in cells}
    places = {(t, p, w, d) for t in TRAINERS for p in PARALLELISM for w in WEIGHTS for d in PRECISIONS}
    if odd := found - places:
        raise ValueError(f"no place in the table for {sorted(odd)}")
    lines = [f"| trainer | weights | {' | '.join(PARALLELISM)} |", "|---" * (2 + len(PARALLELISM)) + "|"]
    for trainer in TRAINERS:
        for weights in WEIGHTS:
            tested = [
                ", ".join(precision for precision in PRECISIONS if (trainer, parallelism, weights, precision) in found)
                for parallelism in PARALLELISM
            ]
            lines.append(f"| {trainer} | {weights} | {' | '.join(each or '–' for each in tested)} |")
    return "\n".join(lines) + "\n"


def passed(report: Path) -> set[str]:
    """The cells of a JUnit report that only passed tests cover."""
    cells: dict[str, bool] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        is_passed = all(case.find(outcome) is None for outcome in ("failure", "error"))
        if case.find("skipped") is None:
            for named in case.iterfind("properties/property[@name='cell']"):
                cell = named.attrib["value"]
                cells[cell] = cells.get(cell, True) and is_passed
    return {cell for cell, is_passed in cells.items() if is_passed}


def replace(page: str, cells: Iterable[str]) -> str:
    """``page`` with the table of ``cells``."""
    return _TABLE.sub(lambda _: render(cells), page)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="of pytest --junitxml")
    args = parser.parse_args(arguments)
    PAGE.write_text(replace(PAGE.read_text(), passed(args.report)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
