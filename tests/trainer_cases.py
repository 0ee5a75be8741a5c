"""What is tested of SFA in other trainers: the cells of the table in docs/trainers.md."""

from dataclasses import dataclass

import pytest

PARALLELISM = ["one process", "DDP", "FSDP1", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"]


@dataclass(frozen=True)
class Cell:
    """A combination that a test compares with Algorithm 1 in a plain loop."""

    trainer: str
    parallelism: str
    weights: str = "full"  # or LoRA, QLoRA
    precision: str = "fp32"  # of the trained weights; with ZeRO, of the model's copies of its float32 masters

    def __str__(self) -> str:
        return f"{self.trainer}, {self.parallelism}, {self.weights}, {self.precision}"


@dataclass(frozen=True)
class Case:
    """One fit of two ranks in tests/trainers_worker.py."""

    cell: Cell
    kind: str = "sgd"
    accumulation: int = 1
    offload: bool = False
    anchor: bool = False  # θ_o is another model, in a folder
    merge: str = "factors"

    @property
    def name(self) -> str:
        parts = [str(self.cell), self.kind if self.kind != "sgd" else "", "offload" if self.offload else ""]
        parts += ["anchor" if self.anchor else "", self.merge if self.merge != "factors" else ""]
        parts += [f"accumulation {self.accumulation}" if self.accumulation != 1 else ""]
        return ", ".join(part for part in parts if part)


def _case(trainer: str, parallelism: str, weights: str = "full", precision: str = "fp32", **settings: object) -> Case:
    return Case(Cell(trainer, parallelism, weights, precision), **settings)  # type: ignore[arg-type]


SHARDED = ["DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
CASES = [
    *(_case("Trainer", each, precision=precision) for each in SHARDED for precision in ("fp32", "bf16")),
    *(_case("Trainer", each, "LoRA") for each in SHARDED),
    *(_case("Trainer", each, "LoRA", "bf16") for each in ("DDP", "ZeRO-2")),
    *(_case("Trainer", each, anchor=True) for each in ("DDP", "FSDP2", "ZeRO-1", "ZeRO-3")),
    _case("Trainer", "DDP", "LoRA", merge="product"),
    _case("Trainer", "ZeRO-2", kind="adamw", accumulation=2),
    _case("Trainer", "ZeRO-3", kind="adamw", accumulation=2),
    _case("Trainer", "ZeRO-2", offload=True),
    _case("Trainer", "ZeRO-3", offload=True),
    *(_case("plain loop", each) for each in ("DDP", "FSDP1", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3")),
    *(_case("plain loop", each, precision="bf16") for each in ("DDP", "FSDP1", "FSDP2")),
    *(_case("plain loop", each, anchor=True) for each in ("FSDP1", "FSDP2")),
    _case("Accelerate", "DDP"),
    _case("Lightning", "DDP"),
]
RESUMED = [
    case for case in CASES if case.name in [f"Trainer, {each}, full, fp32" for each in ("DDP", "FSDP2", "ZeRO-3")]
]


def cells(*found: Cell) -> list[pytest.MarkDecorator]:
    """Marks a test by the cells that it covers."""
    return [pytest.mark.cell(str(cell)) for cell in found]
