"""How every command of this project starts and ends: errors in a line, quiet libraries, pipes that may be closed."""

import functools
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from sfa.errors import SFAError
from sfa.store import DamagedStage

Main = Callable[[list[str]], int]


def command(main: Main) -> Main:
    """``main``, with an :class:`SFAError` or ``OSError`` told on stderr, and the exit code that it stands for."""

    @functools.wraps(main)
    def told(arguments: list[str]) -> int:
        try:
            return main(arguments)
        except BrokenPipeError:
            raise
        except DamagedStage as error:
            print(f"{error}. {error.advice}.", file=sys.stderr)
            return error.code
        except SFAError as error:
            print(error, file=sys.stderr)
            return error.code
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130

    return told


def start(main: Main) -> NoReturn:
    """Ends the process with the exit code of ``main`` on the command line's arguments. A reader of its stdout that
    leaves, as ``head`` does, ends it without a word."""
    prepare_streams()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        to_nowhere()
        code = 1
    sys.exit(code)


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
    """Leaves one line of what goes wrong while loggers are closed, after a failure that is told by itself."""
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args = f"{record.getMessage().splitlines()[0]} {record.exc_info[1]}", ()
        record.exc_info = record.exc_text = record.stack_info = None
    return True
