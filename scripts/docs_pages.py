"""Hooks of ``mkdocs build``: adds pages from outside ``docs/`` and tables generated from the code.

The site holds the repository's own README, CONTRIBUTING, CHANGELOG, SECURITY and ``results/`` at the same relative
paths, with ``docs/`` removed, so that links work both on the site and in the repository. In a page,
``<!-- keys -->`` becomes the tables of config keys, ``<!-- task options -->`` those of every task's options, and
``<!-- public names -->`` what the package ``sfa`` exports.
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE", "constraints.txt"]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
COMMON = {"name", "evals", "train", "evaluate_only"}  # options that every task has

Schema = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that live outside ``docs/``."""
    results = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "results").rglob("*.[mp][dn]*"))]
    for path in [*PAGES, *results]:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapts links to the site's paths and fills in the generated tables."""
    path = Path(str(page.file.abs_src_path))
    if path.is_relative_to(config.docs_dir):  # docs/ itself is one folder less on the site
        up = "../" * (len(path.relative_to(config.docs_dir).parents) - 1)
        markdown = markdown.replace(f"](../{up}", f"]({up}")
    else:
        markdown = re.sub(r"\]\((\.\./)?docs/", r"](\1", markdown)
    for name, render in {"keys": _keys, "task options": _task_options, "public names": _public_names}.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", render())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Removes Sphinx's roles, which docstrings use to name code, and leaves the code."""
    return re.sub(r":(?:func|class|meth|mod|data|attr):(<code>)~?", r"\1", html)


def _keys() -> str:
    """A table of the top-level config keys, then one for each section."""
    from sfa.config.schema import config_class

    schema = config_class().model_json_schema()
    definitions: dict[str, Schema] = schema["$defs"]
    sections: list[str] = []

    def add(prefix: str, section: Schema) -> None:
        required = section.get("required", [])
        names = {key: _section(field) for key, field in section["properties"].items()}
        rows = [_row(prefix + key, field, key in required, names[key]) for key, field in section["properties"].items()]
        sections.append(_table(rows))
        for key, name in names.items():
            if name is not None:
                inner = definitions[name.rpartition("/")[2]]
                summary = " ".join(inner.get("description", "").replace("``", "`").split())
                sections.append(f"### `{prefix}{key}`\n\n{summary}")
                add(f"{prefix}{key}.", inner)

    add("", schema)
    return "\n\n".join(sections)


def _task_options() -> str:
    """Each registered task's summary and the options that not every task has."""
    from sfa.data import TASKS, Conversations, Custom, Images, InstructionFolder, LabelSplit

    kinds: list[tuple[str, Any]] = [*sorted(TASKS.items()), ("a data set of text", Custom)]
    kinds += [("conversations", Conversations), ("images", Images), ("`split`", LabelSplit)]
    sections = []
    kinds += [("`instructions`", InstructionFolder)]
    for name, kind in kinds:
        summary = re.sub(r":\w+:`+~?([^`]+)`+", r"`\1`", " ".join((kind.__doc__ or "").replace("``", "`").split()))
        schema = kind.model_json_schema()
        required = schema.get("required", [])
        options = {key: field for key, field in schema["properties"].items() if key not in COMMON or key in required}
        rows = [_row(key, field, key in required) for key, field in options.items()]
        title = f"`{name}`" if name in TASKS else name
        sections.append(f"### {title}\n\n{summary}\n\n{_table(rows) if rows else ''}\n")
    return "\n".join(sections)


def _public_names() -> str:
    import sfa

    return "\n\n".join(f"::: sfa.{name}" for name in sfa.__all__)


def _table(rows: list[str]) -> str:
    return "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])


def _row(key: str, field: Schema, required: bool, reference: str | None = None) -> str:
    """A table row for one key. If the key holds a section, the one at ``reference``, the defaults are in its table."""
    default = "required" if required else f"`{_as_yaml(field.get('default'))}`"
    if reference is not None and isinstance(field.get("default"), dict):
        default = "below"
    hint = field.get("description") or next(
        (kind["description"] for kind in _kinds(field) if "description" in kind), ""
    )
    cells = [f"`{key}`", _values(field), default, hint]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(field: Schema) -> str | None:
    """Reference to the schema of the section that a key holds, if it holds one."""
    return next((kind["$ref"] for kind in _kinds(field) if "$ref" in kind), None)


def _kinds(field: Schema) -> list[Schema]:
    kinds: list[Schema] = field.get("anyOf", [field])
    return kinds


def _values(field: Schema) -> str:
    return " or ".join(_value(kind) for kind in _kinds(field))


def _value(kind: Schema) -> str:
    if "enum" in kind or "const" in kind:
        return ", ".join(f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
    if kind.get("type") == "array":
        return f"list of {_values(kind['items'])}" if "items" in kind else "list"
    bounds = [f"{sign} {_as_yaml(kind[bound])}" for bound, sign in BOUNDS.items() if bound in kind]
    if "$ref" in kind:
        return "task" if kind["$ref"].endswith("/Task") else "block"
    name = str(kind.get("type", "any"))
    return ", ".join(["mapping" if name == "object" else name, *bounds])


def _as_yaml(value: Any) -> str:
    """A value as it would be written in YAML."""
    if isinstance(value, str) and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)
