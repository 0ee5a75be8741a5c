"""Copies the model that a run ended with to a folder of its own, for another config's ``model.name``.

python -m scripts.export runs/glyphs-pretrain models/glyphs-vit
"""

import argparse
import shutil
from pathlib import Path

from scripts import files
from sfa.errors import UsageError
from sfa.runs import read_manifest_of, read_results, stage_folder, verify
from sfa.terminal import command, start


def export(run: Path, out: Path) -> None:
    """Writes the last stage's model of ``run`` to ``out``, whole or not at all, in place of what is there.

    Raises:
        UsageError: ``run`` is no finished run, its last stage is gone, or ``out`` holds something else than a model.
        DamagedStage: its files are not those that were written.
    """
    last = read_results(run)["stages"][-1]["fingerprint"]
    stage = stage_folder(run.parent, last)
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there and is no model: name another folder")
    read_manifest_of(run, last)
    verify(stage)
    temporary = out.with_name(f".{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage / "model", temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.replace(out)
    print(out)


@command("python -m scripts.export")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=files.path, help="folder of a run, with its results.json")
    parser.add_argument("out", type=files.path)
    given = parser.parse_args(arguments)
    export(given.run, given.out)
    return 0


if __name__ == "__main__":
    start(main)
