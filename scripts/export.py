"""Copies the model that a run ended with to a folder of its own, for another config's ``model.name``.

python -m scripts.export runs/glyphs-pretrain models/glyphs-vit
"""

import argparse
import json
import shutil
from pathlib import Path

from sfa import store


def export(run: Path, out: Path) -> None:
    """Writes the last stage's model of ``run`` to ``out``, whole or not at all, in place of what is there.

    Raises:
        DamagedStage: its files are not those that were written.
    """
    last = json.loads((run / "results.json").read_text())["stages"][-1]["fingerprint"]
    stage = store.stage_folder(run.parent, last)
    store.verify(stage)
    temporary = out.with_name(f".{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage / "model", temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.replace(out)
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with its results.json")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    export(given.run, given.out)


if __name__ == "__main__":
    main()
