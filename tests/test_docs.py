"""README and docs/ match the code: the methods, tasks, keys, commands and files that they name exist."""

import re
from pathlib import Path

import pytest
import yaml

from eval import available
from sfa.config import load
from sfa.data import TASKS
from sfa.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix().removeprefix("docs/"): page.read_text() for page in PAGES}
METHOD_PAGES = [page for page in TEXT if page.startswith("methods/")]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT[page], re.DOTALL | re.MULTILINE)


def test_readme_is_short() -> None:
    assert len(TEXT["README.md"].splitlines()) <= 150


def test_every_method_has_a_page_and_is_in_the_overview() -> None:
    named = re.findall(r"^\| \[`(\w+)`\]\(methods/(\w+)\.md\)", TEXT["methods.md"], re.MULTILINE)
    assert sorted(named) == sorted((name, name) for name in METHODS if METHODS[name].__module__.startswith("sfa."))
    assert sorted(METHOD_PAGES) == sorted(f"methods/{name}.md" for name, _ in named)
    for page in METHOD_PAGES:
        assert TEXT[page].startswith(f"# `{Path(page).stem}`\n") and "```text\n" in TEXT[page], page
        assert "**When**: " in TEXT[page], page


def test_every_task_and_evaluation_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", TEXT["tasks.md"]))
    assert set(TASKS) <= named
    assert {name for name in available() if name.endswith("_rouge")} <= named


def test_every_config_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", TEXT["configs.md"].partition("## All keys")[0]))
    auxiliary = {"small", "small_t5", "glyphs_pretrain"}
    assert {path.stem for path in (ROOT / "yamls").glob("*.yaml")} - auxiliary <= listed


@pytest.mark.parametrize("page", TEXT)
def test_commands_and_files_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z0-9/-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^\$ |`)make ([a-z][a-z0-9/-]*)", TEXT[page], re.MULTILINE)) <= targets
    modules = re.findall(r"python -m ((?:scripts|tests)(?:\.\w+)+)", TEXT[page])
    files = [module.replace(".", "/") for module in modules]
    assert [name for name in files if not (ROOT / f"{name}.py").is_file() and not (ROOT / name).is_dir()] == []
    yamls = re.findall(r"yamls/[\w/]+\.yaml", TEXT[page])
    assert [name for name in yamls if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["README.md", "guide.md"])
def test_whole_configs_are_valid(page: str, tmp_path: Path) -> None:
    configs = [text for text in blocks(page, "yaml") if "name" in yaml.safe_load(text)]
    assert configs
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    for text in configs:
        file = tmp_path / "config.yaml"
        file.write_text(text.replace("data/next", str(tmp_path)))
        assert load(file, [], available).method == "sfa"


def test_method_blocks_are_valid(tmp_path: Path) -> None:
    base = {"name": "x", "model": {"name": "EleutherAI/pythia-160m"}, "tasks": ["arithmetic", "licences"]}
    examples = [(page, yaml.safe_load(text)) for page in ["methods.md", *METHOD_PAGES] for text in blocks(page, "yaml")]
    for number, (page, block) in enumerate(examples):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump({**base, **block}))
        assert load(tmp_path / f"{number}.yaml", [], available).method == block["method"]
        assert page == "methods.md" or block["method"] == Path(page).stem
    assert len(examples) >= 20
