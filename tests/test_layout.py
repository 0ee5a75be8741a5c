"""The suite's floors: what lies above is known, never what lies below."""

import ast
from pathlib import Path

import pytest

import sfa

ROOT = Path(sfa.__file__).parent.parent
FLOORS = [
    "data",
    "families",
    "methods",
    "config",
    "stages",
    "sweeps",
    "sweep_description",
]  # after the files beside them
SUITE = {
    "inventory": "stages",
    "models": "families",
    "weights": "families",
    "fisher": "families",
    "stored_logits": "families",
    "parallel": "families",
    "curves": "stages",
}
# Of the suite's trainer; the other adapters need none of them.
COMPOSER = [
    "agem",
    "bema",
    "composer",
    "der",
    "distillation",
    "ema",
    "finite",
    "memory",
    "origin",
    "orthogonal",
    "penalty",
]
NAMING = {  # files that may name a method, and why
    "sfa/merging.py": "mergekit's own names of merges",
    "sfa/penalties.py": "formulas of penalties, which methods are called after",
    "sfa/trainers/penalty.py": "the same formulas in a trainer",
    "scripts/bench/penalties.py": "the same formulas against another package's",
    "scripts/bench/merging.py": "one of its merges is Composer's moving average, by its own name",
    "scripts/bench/folders.py": "the merges that mergekit has too, with the command lines of both",
    "scripts/bench/__main__.py": "measures the Fisher information in a module of this name",
    "scripts/paper/claims.py": "what the paper claims of particular methods",
    "scripts/paper/beds.py": "the conditions of a bed are about two particular methods",
}


def floor(module: str) -> int:
    """Of a module of ``sfa``; the files beside the folders are the ground floor, unless they are the suite's."""
    part, inner = [*module.split(".")[1:], "", ""][:2]
    name = "methods" if part == "trainers" and inner in COMPOSER else SUITE.get(part, part)
    return FLOORS.index(name) + 1 if name in FLOORS else 0


def imports(file: Path) -> list[str]:
    """Modules that a file imports, also inside functions, but not for types alone."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in ast.walk(node)
    }
    modules = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"sfa.{name.name}" for name in node.names] if node.module == "sfa" else [node.module]
        elif isinstance(node, ast.Import):
            modules += [name.name for name in node.names]
    return modules


@pytest.mark.parametrize("file", sorted(path.relative_to(ROOT) for path in (ROOT / "sfa").rglob("*.py")), ids=str)
def test_no_import_points_back(file: Path) -> None:
    own = floor(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
    for module in imports(ROOT / file):
        assert module.partition(".")[0] not in ("eval", "scripts", "train"), module
        assert not module.startswith("sfa.") or floor(module) <= own, module


@pytest.mark.parametrize("folder", ["eval", "scripts"])
def test_nothing_imports_the_entry_point_or_a_folder_below(folder: str) -> None:
    below = {"eval": ("scripts", "train"), "scripts": ()}[folder]
    for file in (ROOT / folder).rglob("*.py"):
        assert not {module.partition(".")[0] for module in imports(file)} & {*below}, file


def test_what_registers_itself_is_named_in_its_own_file_alone() -> None:
    """Methods and families; other files ask the registry, or the class for a property."""
    from sfa.families.base import FAMILIES
    from sfa.methods import METHODS

    homes = {name: kind.__module__ for name, kind in {**METHODS, **FAMILIES}.items()}
    del homes["sfa"]  # the package is called sfa
    naming = set()
    for file in sorted(file for folder in ("sfa", "eval", "scripts") for file in (ROOT / folder).rglob("*.py")):
        place = file.relative_to(ROOT)
        words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        named = {name for name in words & homes.keys() if homes[name] != ".".join(place.with_suffix("").parts)}
        if named:
            naming.add(str(place))
            assert str(place) in NAMING, (place, named)
    assert naming == NAMING.keys(), "an exception that is not needed any more"


def test_nothing_imports_a_family() -> None:
    from sfa.families.base import FAMILIES

    families = {kind.__module__ for kind in FAMILIES.values()}
    for file in sorted(file for folder in ("sfa", "eval", "scripts") for file in (ROOT / folder).rglob("*.py")):
        assert not families & {*imports(file)}, file
