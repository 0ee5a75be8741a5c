"""Copies a run's final model to a folder, with a model card; it can be another config's ``model.name``.

sfa export runs/mine models/mine
sfa export runs/mine models/mine --license apache-2.0 --push owner/name

--push uploads the folder to a private repository of the hub, which is created if needed, as the account that
huggingface_hub is logged in to. Nothing is uploaded without it.
"""

import argparse
import shutil
from pathlib import Path

from scripts import card, files
from sfa.errors import SFAError, UsageError, one_line
from sfa.runs import CARD, read_manifest_of, read_results, stage_folder, verify
from sfa.terminal import command, start


def export(run: Path, out: Path, licence: str | None = None) -> None:
    """Copies the last stage's model of ``run`` to ``out`` atomically, replacing a model that is there, and adds a card.

    Raises:
        UsageError: ``run`` is not a finished run, its last stage was deleted, or ``out`` is not empty and not a model.
        DamagedStage: the checksums of its files do not match.
    """
    last = read_results(run)["stages"][-1]["fingerprint"]
    stage = stage_folder(run.parent, last)
    is_model = (out / "config.json").is_file() or (out / "adapter_config.json").is_file()
    if out.exists() and not is_model and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a model: choose another folder")
    read_manifest_of(run, last)
    verify(stage)
    temporary = out.with_name(f".{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage / "model", temporary)
    files.write(temporary / CARD, card.of_run(run, temporary, licence))
    shutil.rmtree(out, ignore_errors=True)
    temporary.replace(out)
    print(out)


def push(folder: Path, name: str, private: bool = True) -> str:
    """Uploads a folder to the repository ``name`` of the hub, and returns its address.

    Raises:
        SFAError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        address = HfApi().create_repo(name, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message=f"Add {folder.name}")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise SFAError(
            f"{folder} was not uploaded to {name}: {one_line(error)}", f"The model is in {folder}"
        ) from error
    return str(address)


@command("python -m scripts.export")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 damaged or not uploaded, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=files.path, help="folder of a run, with its results.json")
    parser.add_argument("out", type=files.path)
    parser.add_argument(
        "--license", help="of the model, as the hub names it; default: that of the base model, if known"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="also upload it to this repository of the hub")
    parser.add_argument("--public", action="store_true", help="with --push: a new repository is public")
    args = parser.parse_args(arguments)
    if args.public and not args.push:
        parser.error("--public is only for --push")
    export(args.run, args.out, args.license)
    if args.push:
        print(push(args.out, args.push, not args.public))
    return 0


if __name__ == "__main__":
    start(main)
