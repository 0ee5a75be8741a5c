"""Runs a config: ``composer [-n RANKS] train.py yamls/quickstart.yaml [key=value …]``."""

import os
import shlex
import sys

from eval import available
from sfa import config as configs
from sfa.errors import SFAError
from sfa.orphans import end_with_parent
from sfa.schema import Config
from sfa.terminal import quiet, start, to_nowhere

USAGE = "usage: composer [-n RANKS] train.py CONFIG.yaml [key=value …] [dry_run=true]"


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong config or usage, 130 interrupted."""
    first = os.environ.get("RANK", "0") == "0"
    if not arguments or arguments[0] in ("-h", "--help"):
        if first:
            print(USAGE, file=sys.stderr)
        return 0 if arguments else 2
    try:
        config = configs.load(arguments[0], arguments[1:], available)
    except SFAError as error:
        if first:
            print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    if config.dry_run:
        return _describe(config) if first else 0
    return train(config, shlex.join(["composer", "train.py", *arguments]), first)


def _describe(config: Config) -> int:
    from sfa.describe import describe

    try:
        print(describe(config), flush=True)
    except BrokenPipeError:  # a reader who has seen enough
        to_nowhere()
    except SFAError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


def train(config: Config, command: str, first: bool) -> int:
    """Trains and reports; ``command`` is what goes on with it."""
    quiet()
    if "LOCAL_RANK" in os.environ:
        end_with_parent()  # the launcher
    from rich.console import Console
    from safetensors import SafetensorError

    from eval.evaluator import evaluator
    from scripts.curves import draw
    from sfa.callbacks import Interrupted
    from sfa.finite import NotFinite
    from sfa.results import matrix_text
    from sfa.run import make_only, run
    from sfa.runs import results_file, run_folder
    from sfa.store import DamagedStage

    console = Console(quiet=not first, highlight=False, markup=False, soft_wrap=True)
    try:
        if config.only is not None:
            make_only(config, evaluator(config), console)
            return 0
        results = run(config, evaluator(config), console)
    except (Interrupted, KeyboardInterrupt) as error:
        saved = f"at {error}, saved" if isinstance(error, Interrupted) else "nothing of a finished stage is lost"
        console.print(f"\nInterrupted ({saved}). To go on, run the same command again:\n  {command}")
        return 130
    except NotFinite as error:
        print(f"{error}. Nothing of it is kept; the last checkpoint is from before.", file=sys.stderr)
        return 1
    except DamagedStage as error:
        print(f"{error}. {error.advice}.", file=sys.stderr)
        return 1
    except SFAError as error:
        if first or error.code == 1:  # of data and models, one rank alone may know
            print(error, file=sys.stderr)
        return error.code
    except BrokenPipeError:
        raise
    except (OSError, SafetensorError) as error:
        print(f"{error}. What is finished, and the last whole checkpoint, are as they were.", file=sys.stderr)
        return 1
    folder = run_folder(config.save_folder, config.name)
    if first:
        picture = draw([folder], folder / "curves.png")
        console.print(f"\n{matrix_text(results)}\n\n{results_file(folder)}  {picture}")
    return 0


if __name__ == "__main__":
    start(main)
