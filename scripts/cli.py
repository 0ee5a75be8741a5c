"""The command ``sfa``: each of its subcommands is a module of this package."""

import ast
import difflib
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from sfa.errors import WRONG
from sfa.terminal import start

COMMANDS = {  # name to module, in the order of a day
    "new": "new_config",
    "run": "run",
    "sweep": "sweep",
    "compare": "compare",
    "report": "report",
    "evaluate": "evaluate",
    "export": "export",
    "merge": "merge",
    "list": "list_runs",
    "prune": "prune",
    "curves": "curves",
    "tables": "tables",
    "figures": "figures",
    "claims": "claims",
}


def main(arguments: list[str]) -> int:
    """Exit code: that of the subcommand; 2 if there is none of that name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else WRONG
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"sfa: no command {name!r}{hint} (sfa --help lists them)", file=sys.stderr)
        return WRONG
    sys.argv = [f"sfa {name}", *rest]  # what argparse and a resumption show
    return int(import_module(f"scripts.{COMMANDS[name]}").main(rest))


def usage() -> str:
    """The subcommands with the first clause of each module's docstring, which is read without an import."""
    lines = [f"  {name:<10}{_summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: sfa COMMAND [...]     sfa COMMAND --help explains one", "", *lines])


def _summary(module: str) -> str:
    spec = find_spec(f"scripts.{module}")
    assert spec is not None and spec.origin is not None, "the commands are files of this package"
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return re.split("[:,.] ", " ".join(text.partition("\n\n")[0].split()))[0].rstrip(".")


def entry() -> NoReturn:
    """The entry point of the installed command."""
    start(main)


if __name__ == "__main__":
    start(main)
