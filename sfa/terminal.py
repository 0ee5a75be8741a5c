"""Start and end of every command: failures as one message, quiet libraries, closed pipes."""

import contextlib
import functools
import io
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from safetensors import SafetensorError

from sfa.errors import FAILED, Interrupted, SFAError

Main = Callable[[list[str]], int]
QUIET = {  # what libraries read when they are imported
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_QUIET": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
TYPED = "SFA_TYPED"  # environment variable of ranks
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # of the SystemExit that a signal raises once Composer is there
UNAFFECTED = "What is finished, and the last whole checkpoint, are as they were"


def command(name: str) -> Callable[[Main], Main]:
    """Decorates the main function of a command: failures are reported on stderr and determine its exit code.

    Args:
        name: the command without arguments; used to show how to resume it after an interruption.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(arguments: list[str]) -> int:
            try:
                return main(arguments)
            except (SFAError, KeyboardInterrupt, OSError, SafetensorError, SystemExit) as error:
                if isinstance(error, BrokenPipeError):
                    raise  # for start
                if isinstance(error, SystemExit) and error.code not in SIGNALLED:
                    raise  # of argparse
                return _report(_failure(error), typed() or f"{name} {shlex.join(arguments)}")

        return run

    return decorate


def typed() -> str:
    """The command with its subcommand as it was typed, also in ranks that it started; empty without a subcommand."""
    is_subcommand = sys.argv[0].startswith("sfa ")  # as scripts.cli sets it
    return f"{sys.argv[0]} {shlex.join(sys.argv[1:])}" if is_subcommand else os.environ.get(TYPED, "")


def _failure(error: BaseException) -> SFAError:
    if isinstance(error, SFAError):
        return error
    is_signal = isinstance(error, KeyboardInterrupt | SystemExit)
    return Interrupted() if is_signal else SFAError(str(error), UNAFFECTED)


def _report(failure: SFAError, again: str) -> int:
    """Prints a failure and returns its exit code. Config errors and interruptions occur on all ranks, so only the first
    prints them; errors of data, models and disks may occur on a single rank."""
    say("")
    if is_first_rank() or failure.code == FAILED:
        interrupted = f"\n{failure.message}. {failure.advice}:\n  {again}"
        print(interrupted if isinstance(failure, Interrupted) else failure, file=sys.stderr)
    return failure.code


def is_first_rank() -> bool:
    """Whether this is the only process, or rank 0."""
    return os.environ.get("RANK", "0") == "0"


def start(main: Main) -> NoReturn:
    """Runs ``main`` on the command line's arguments and exits with its code. If the reader of stdout closes the pipe,
    as ``head`` does, the process exits silently."""
    prepare_streams()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        to_nowhere()
        code = FAILED
    sys.exit(code)


def show(text: str) -> None:
    """Prints ``text``, the complete output of a command, and ignores a closed pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        to_nowhere()


def prepare_streams() -> None:
    """Makes stdout and stderr line-buffered, with escapes for unsupported characters; a closed stream is replaced with
    one that discards its input."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            os.dup2(stream.fileno(), number)  # otherwise the next opened file would take its number
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def to_nowhere() -> None:
    """Discards the remaining output to stdout, whose reader has closed it (Python's note on SIGPIPE)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet() -> None:
    """Suppresses warnings and progress bars of the libraries."""
    import datasets
    import transformers

    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # its errors are raised as well
    logging.getLogger("composer").setLevel(logging.ERROR)
    logging.getLogger("composer.core.engine").addFilter(_shorten)
    _disable_bars()
    threading.excepthook = lambda failed: print(f"{failed.thread}: {failed.exc_value}", file=sys.stderr)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _disable_bars() -> None:
    """Disables every bar of tqdm, also those that a library asks for: they would break the suite's own live line. No
    environment variable does that once tqdm is imported."""
    from tqdm.std import tqdm

    plain = tqdm.__init__
    if getattr(plain, "is_disabled", False):
        return

    @functools.wraps(plain)
    def disabled(self: Any, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **{**options, "disable": True})

    disabled.is_disabled = True  # type: ignore[attr-defined]
    tqdm.__init__ = disabled


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Shows a line in a terminal while something is done that takes seconds."""
    say(what)
    try:
        yield
    finally:
        say("")


def say(what: str) -> None:
    """Shows ``what`` in the last line of a terminal, in place of what was shown there; empty: clears it."""
    if sys.stderr is not None and sys.stderr.isatty() and is_first_rank():
        print(f"\r\x1b[2K{what} …" if what else "\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _shorten(record: logging.LogRecord) -> bool:
    """Shortens the log of a failure while loggers are closed to one line."""
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args = f"{record.getMessage().splitlines()[0]} {record.exc_info[1]}", ()
        record.exc_info = record.exc_text = record.stack_info = None
    return True
