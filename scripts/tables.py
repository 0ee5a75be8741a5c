"""The paper's tables beside ours: its number, ours where the run is there, the difference, and whether its order holds.

python -m scripts.tables yamls/sweeps/table1.yaml
python -m scripts.tables yamls/sweeps/table*.yaml --format latex --out tables.tex
python -m scripts.tables yamls/sweeps/table1.yaml yamls/small.yaml save_folder=runs/small

Overrides are those that the sweep was run with.
"""

import argparse
from pathlib import Path

from scripts import files
from scripts.paper.tables import load, render
from sfa.terminal import command, start


@command("python -m scripts.tables")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 wrong file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TABLE.yaml | KEY=VALUE", help="sweeps with a table, and overrides")
    parser.add_argument("--format", choices=["text", "csv", "latex", "markdown"], default="text")
    parser.add_argument("--out", type=files.path, help="write to this file instead of the terminal")
    given = parser.parse_args(arguments)
    tables = [file for file in given.files if Path(file).parent.name == "sweeps"]
    overrides = [word for word in given.files if word not in tables]
    if not tables:
        parser.error(f"{' '.join(given.files)}: name a sweep's file, like yamls/sweeps/table1.yaml")
    text = "\n".join(render(load(Path(file), overrides), given.format) for file in tables)
    if given.out:
        print(files.write(given.out, text))
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    start(main)
