"""Runs a config: ``composer [-n RANKS] train.py yamls/quickstart.yaml [key=value …]``."""

import io
import logging
import os
import shlex
import sys
import threading
import warnings

from eval import available
from sfa import config as configs
from sfa.schema import Config

USAGE = "usage: composer [-n RANKS] train.py CONFIG.yaml [key=value …] [dry_run=true]"


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong config or usage, 130 interrupted."""
    first = os.environ.get("RANK", "0") == "0"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stderr)
        return 0 if arguments else 2
    try:
        config = configs.load(arguments[0], arguments[1:], available())
    except configs.ConfigError as error:
        if first:
            print(error, file=sys.stderr)
        return 2
    if config.dry_run:
        if first:
            from sfa.describe import describe

            print(describe(config))
        return 0
    return train(config, shlex.join(["composer", "train.py", *arguments]), first)


def train(config: Config, command: str, first: bool) -> int:
    """Trains and reports; ``command`` is what goes on with it."""
    _quiet()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line when it is written
    from rich.console import Console
    from safetensors import SafetensorError

    from eval.evaluator import evaluator
    from scripts.curves import draw
    from sfa.callbacks import Interrupted
    from sfa.data.source import SourceError
    from sfa.finite import NotFinite
    from sfa.models import ModelError
    from sfa.results import matrix_text
    from sfa.run import make_only, run
    from sfa.store import DamagedStage

    console = Console(quiet=not first, highlight=False, soft_wrap=True)
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
    except configs.ConfigError as error:
        if first:
            print(error, file=sys.stderr)
        return 2
    except (SourceError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        print(f"{error}. What is finished, and the last whole checkpoint, are as they were.", file=sys.stderr)
        return 1
    folder = config.save_folder / config.name
    if first:
        picture = draw([folder], folder / "curves.png")
        console.print(f"\n{matrix_text(results)}\n\n{folder / 'results.json'}  {picture}")
    return 0


def _quiet() -> None:
    """Leaves the terminal to our own lines; warnings of the libraries go to the log."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs besides, it raises
    logging.getLogger("composer").setLevel(logging.ERROR)
    logging.getLogger("composer.core.engine").addFilter(_shorten)
    threading.excepthook = lambda failed: print(f"{failed.thread}: {failed.exc_value}", file=sys.stderr)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _shorten(record: logging.LogRecord) -> bool:
    """Leaves one line of what goes wrong while loggers are closed, after a failure that is told by itself."""
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args = f"{record.getMessage().splitlines()[0]} {record.exc_info[1]}", ()
        record.exc_info = record.exc_text = record.stack_info = None
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
