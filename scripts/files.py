"""Paths on a command line, and the text files that commands write."""

import argparse
from pathlib import Path

from sfa.values import REMOTE, at_home


def path(text: str) -> Path:
    """A path of a command line, with ``~`` expanded to the home folder even if the shell did not.

    Raises:
        argparse.ArgumentTypeError: it is empty, not local, or names an unknown user.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, not an empty name")
    if REMOTE.match(text):
        raise argparse.ArgumentTypeError(f"must be a local path, not {text}")
    try:
        return Path(at_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def picture(text: str) -> Path:
    """The path of a picture to be written.

    Raises:
        argparse.ArgumentTypeError: it is not a valid path, or its file type is not supported.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(text).suffix.removeprefix(".") not in kinds:
        raise argparse.ArgumentTypeError(f"must end in one of .{', .'.join(kinds)}, not {text}")
    return path(text)


def write(out: Path, text: str) -> Path:
    """Writes ``text`` to ``out``, creating its folder if needed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out
