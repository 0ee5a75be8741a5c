"""Copies a run's final model to a folder, to be used as another config's ``model.name``.

sfa export runs/glyphs-pretrain models/glyphs-vit
"""

import argparse
import shutil
from pathlib import Path

from scripts import files
from sfa.errors import UsageError
from sfa.runs import read_manifest_of, read_results, stage_folder, verify
from sfa.terminal import command, start


def export(run: Path, out: Path) -> None:
    """Copies the last stage's model of ``run`` to ``out`` atomically, replacing a model that is there.

    Raises:
        UsageError: ``run`` is not a finished run, its last stage was deleted, or ``out`` is not empty and not a model.
        DamagedStage: the checksums of its files do not match.
    """
    last = read_results(run)["stages"][-1]["fingerprint"]
    stage = stage_folder(run.parent, last)
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a model: choose another folder")
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
    args = parser.parse_args(arguments)
    export(args.run, args.out)
    return 0


if __name__ == "__main__":
    start(main)
