"""Compares the paper's tables with our runs: its number, ours, the difference, and whether the order of rows agrees.

sfa tables yamls/sweeps/table1.yaml
sfa tables yamls/sweeps/table*.yaml --format latex --out tables.tex
sfa tables yamls/sweeps/table1.yaml yamls/small.yaml save_folder=runs/small

Give the same overrides as when the sweep was run.
"""

import argparse
from pathlib import Path

from scripts import files
from scripts.cells import terminal_width
from scripts.paper.tables import load, render
from sfa.terminal import command, start


@command("python -m scripts.tables")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 wrong file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TABLE.yaml | KEY=VALUE", help="sweeps with a table, and overrides")
    parser.add_argument("--format", choices=["text", "csv", "latex", "markdown"], default="text")
    parser.add_argument("--out", type=files.path, help="write to this file instead of the terminal")
    args = parser.parse_args(arguments)
    tables = [file for file in args.files if Path(file).parent.name == "sweeps"]
    overrides = [word for word in args.files if word not in tables]
    if not tables:
        parser.error(f"{' '.join(args.files)}: name a sweep's file, like yamls/sweeps/table1.yaml")
    text = "\n".join(render(load(Path(file), overrides), args.format, terminal_width()) for file in tables)
    if args.out:
        print(files.write(args.out, text))
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    start(main)
