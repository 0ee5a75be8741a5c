"""How every command of this project starts and ends: failures in one message, quiet libraries, pipes that may close."""

import functools
import io
import logging
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from safetensors import SafetensorError

from sfa.errors import FAILED, Interrupted, SFAError

Main = Callable[[list[str]], int]
KEPT = "What is finished, and the last whole checkpoint, are as they were"


def command(name: str) -> Callable[[Main], Main]:
    """Makes a command of a function of its arguments: failures are reported on stderr and become its exit code.

    Args:
        name: the words that start the command; shown before its arguments where it can go on after an interruption.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def reported(arguments: list[str]) -> int:
            try:
                return main(arguments)
            except (SFAError, KeyboardInterrupt, OSError, SafetensorError) as error:
                if isinstance(error, BrokenPipeError):
                    raise  # for start
                return _report(_failure(error), f"{name} {shlex.join(arguments)}")

        return reported

    return decorate


def _failure(error: BaseException) -> SFAError:
    if isinstance(error, SFAError):
        return error
    return Interrupted() if isinstance(error, KeyboardInterrupt) else SFAError(str(error), KEPT)


def _report(failure: SFAError, again: str) -> int:
    """Prints a failure and returns its exit code. All ranks find a wrong config and are interrupted together, so the
    first speaks for them; of data, models and disks, one rank alone may know."""
    if is_first_rank() or failure.code == FAILED:
        interrupted = f"\n{failure.message}. {failure.advice}:\n  {again}"
        print(interrupted if isinstance(failure, Interrupted) else failure, file=sys.stderr)
    return failure.code


def is_first_rank() -> bool:
    """Whether this is the only process, or the first of those that the launcher started."""
    return os.environ.get("RANK", "0") == "0"


def start(main: Main) -> NoReturn:
    """Ends the process with the exit code of ``main`` on the command line's arguments. A reader of its stdout that
    leaves, as ``head`` does, ends it without a word."""
    prepare_streams()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        to_nowhere()
        code = FAILED
    sys.exit(code)


def show(text: str) -> None:
    """Prints ``text``, all that a command has to say: a reader that leaves early has seen enough of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        to_nowhere()


def prepare_streams() -> None:
    """Shows every line when it is written, and signs that the terminal does not have as escapes; a stream that is
    closed takes what is written and drops it."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            os.dup2(stream.fileno(), number)  # or the next file that is opened would be taken for it
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def to_nowhere() -> None:
    """Drops what is still to be written to stdout, since its reader is gone (Python's note on SIGPIPE)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet() -> None:
    """Leaves the terminal to our own lines: no warnings and no progress bars of the libraries."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs besides, it raises
    logging.getLogger("composer").setLevel(logging.ERROR)
    logging.getLogger("composer.core.engine").addFilter(_shorten)
    threading.excepthook = lambda failed: print(f"{failed.thread}: {failed.exc_value}", file=sys.stderr)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _shorten(record: logging.LogRecord) -> bool:
    """Leaves one line of a failure while loggers are closed, after one that is reported by itself."""
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args = f"{record.getMessage().splitlines()[0]} {record.exc_info[1]}", ()
        record.exc_info = record.exc_text = record.stack_info = None
    return True
