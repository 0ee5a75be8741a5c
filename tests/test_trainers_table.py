"""The table in docs/trainers.md is what the tests cover, and is written from their outcome."""

from pathlib import Path
from typing import Any

import pytest

from scripts.trainers_table import PAGE, passed, render, replace

TESTS = Path(__file__).parent
FILES = ["huggingface", "low_precision", "lightning", "peers", "plain_loop", "trainers_parallel", "trl"]


class Cells:
    """Collects the cells that tests name."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def pytest_collection_finish(self, session: Any) -> None:
        self.found = {mark.args[0] for item in session.items for mark in item.iter_markers("cell")}


def test_the_page_holds_the_cells_of_the_tests(capsys: pytest.CaptureFixture[str]) -> None:
    collected = Cells()
    files = [str(TESTS / f"test_{name}.py") for name in FILES]
    assert pytest.main(["--collect-only", "--quiet", "-p", "no:cacheprovider", *files], plugins=[collected]) == 0
    others = {path.stem for path in TESTS.rglob("test_*.py") if "tests.trainer_cases import" in path.read_text()}
    assert others - {"test_trainers_table"} == {f"test_{name}" for name in FILES}
    assert PAGE.read_text() == replace(PAGE.read_text(), collected.found), "run `make trainers`"


def test_a_cell_is_in_the_table_if_all_its_tests_passed(tmp_path: Path) -> None:
    def case(cell: str, outcome: str = "") -> str:
        named = f'<property name="cell" value="{cell}"/>'
        return f"<testcase><properties>{named}</properties>{outcome}</testcase>"

    cases = [
        case("Trainer, DDP, full, fp32"),
        case("Trainer, DDP, LoRA, fp32"),
        case("Trainer, DDP, LoRA, fp32", "<failure/>"),
        case("Trainer, FSDP2, full, fp32", "<skipped/>"),
        case("TRL, one process, full, bf16", "<error/>"),
    ]
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert passed(tmp_path / "report.xml") == {"Trainer, DDP, full, fp32"}
    lines = render(["Trainer, DDP, full, bf16", "Trainer, DDP, full, fp32"]).splitlines()
    assert "| Trainer | full | – | fp32, bf16 | – | – | – | – | – |" in lines
    with pytest.raises(ValueError, match="no place in the table for"):
        render(["Trainer, DDP, full, fp64"])
