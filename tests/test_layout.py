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
SUITE = {"weights": "families", "fisher": "families", "parallel": "families", "curves": "stages", "trainers": "methods"}


def floor(module: str) -> int:
    """Of a module of ``sfa``; the files beside the folders are the ground floor, unless they are the suite's."""
    part = module.split(".")[1] if "." in module else ""
    name = SUITE.get(part, part)
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
    found = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"sfa.{name.name}" for name in node.names] if node.module == "sfa" else [node.module]
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names]
    return found


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


def test_methods_are_named_in_their_own_files_alone() -> None:
    """But for ``sequential``, which others build on, and figures and claims of the paper."""
    from sfa.methods import METHODS

    names = set(METHODS) - {"sequential", "sfa"}  # the package is called sfa
    for file in [*(ROOT / "sfa").rglob("*.py"), *(ROOT / "eval").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        if file.parent.name in ("methods", "trainers") or file.name in ("penalties.py", "merging.py"):
            continue
        words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not words & names, (file, words & names)
