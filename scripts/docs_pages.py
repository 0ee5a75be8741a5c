"""Hooks of ``mkdocs build``: pages that live outside ``docs/``, and tables that are read from the code.

The site holds the repository's own README, CONTRIBUTING, CHANGELOG, SECURITY and ``results/`` at the same relative
paths, with ``docs/`` taken out of the way, so that a link works on the site and in the repository. In a page,
``<!-- keys -->`` becomes the table of every config key and ``<!-- task options -->`` that of every task's options.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE", "constraints.txt"]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
COMMON = {"name", "evals", "train", "held_back", "data_folder"}  # of every task

Schema = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that live outside ``docs/``."""
    results = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "results").glob("*.[mp][dn]*"))]
    for path in [*BESIDE, *results]:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at where the site has the page, and fills in the tables."""
    inside = Path(str(page.file.abs_src_path)).is_relative_to(config.docs_dir)
    markdown = re.sub(r"\]\(\.\./" if inside else r"\]\(docs/", "](", markdown)
    if "<!-- keys -->" in markdown:
        markdown = markdown.replace("<!-- keys -->", _keys())
    if "<!-- task options -->" in markdown:
        markdown = markdown.replace("<!-- task options -->", _task_options())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name code with Sphinx's roles, of which the code is shown."""
    return re.sub(r":(?:func|class|meth|mod|data|attr):(<code>)~?", r"\1", html)


def _keys() -> str:
    """A table of keys for the config itself, then one for each block of it."""
    from sfa.schema import Config

    whole = Config.model_json_schema()
    definitions: dict[str, Schema] = whole["$defs"]
    top, tables = [], []

    def add(prefix: str, block: Schema) -> None:
        rows = []
        for key, field in block["properties"].items():
            inner = _block(field, definitions)
            if inner is None:
                rows.append(_row(prefix + key, field, key in block.get("required", [])))
            elif "properties" in inner and inner["title"] != "Task":
                add(f"{prefix}{key}.", inner)
        if not prefix:
            top.extend([_table(rows), ""])
        elif rows:
            summary = " ".join(block.get("description", "").replace("``", "`").split())
            tables.append(f"### `{prefix.rstrip('.')}`\n\n{summary}\n\n{_table(rows)}\n")

    add("", whole)
    return "\n".join([*top, *tables])


def _task_options() -> str:
    """What each registered task is, and its own options."""
    from sfa.data import TASKS, LabelSplit
    from sfa.data.custom import Custom
    from sfa.data.images import Images

    kinds: list[tuple[str, Any]] = [*sorted(TASKS.items()), ("a data set of text", Custom), ("images", Images)]
    parts = []
    for name, kind in [*kinds, ("`split`", LabelSplit)]:
        summary = re.sub(r":\w+:`+~?([^`]+)`+", r"`\1`", " ".join((kind.__doc__ or "").replace("``", "`").split()))
        schema = kind.model_json_schema()
        required = schema.get("required", [])
        own = {key: field for key, field in schema["properties"].items() if key not in COMMON or key in required}
        rows = [_row(key, field, key in required) for key, field in own.items()]
        title = f"`{name}`" if name in TASKS else name
        parts.append(f"### {title}\n\n{summary}\n\n{_table(rows) if rows else ''}\n")
    return "\n".join(parts)


def _table(rows: list[str]) -> str:
    return "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])


def _row(key: str, field: Schema, required: bool) -> str:
    default = "required" if required else f"`{_written(field.get('default'))}`"
    hint = field.get("description") or next((one["description"] for one in _kinds(field) if "description" in one), "")
    cells = [f"`{key}`", _values(field), default, hint]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _block(field: Schema, definitions: dict[str, Schema]) -> Schema | None:
    """The block that a key holds, or a list of them."""
    kinds = [*_kinds(field), *([field["items"]] if "$ref" in field.get("items", {}) else [])]
    found = next((kind["$ref"] for kind in kinds if "$ref" in kind), None)
    return None if found is None else definitions[found.rpartition("/")[2]]


def _kinds(field: Schema) -> list[Schema]:
    return field.get("anyOf", field.get("allOf", [field]))


def _values(field: Schema) -> str:
    return " or ".join(_value(kind) for kind in _kinds(field))


def _value(kind: Schema) -> str:
    if "enum" in kind or "const" in kind:
        return ", ".join(f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
    if kind.get("type") == "array":
        return f"list of {_values(kind['items'])}" if "items" in kind else "list"
    bounds = [f"{sign} {_written(kind[bound])}" for bound, sign in BOUNDS.items() if bound in kind]
    return ", ".join([{"object": "mapping"}.get(kind.get("type", ""), kind.get("type", "mapping" if "$ref" in kind else "any")), *bounds])


def _written(value: Any) -> str:
    """A value as a YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    return str(value)
