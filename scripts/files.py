"""Paths on a command line, and the text files that commands write."""

import argparse
from pathlib import Path

from sfa.values import REMOTE, at_home


def path(text: str) -> Path:
    """A path of a command line, with ``~`` as the home folder, also where the shell left it.

    Raises:
        argparse.ArgumentTypeError: it is empty, not local, or of a user that is not there.
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
    """The path of a picture that is to be drawn.

    Raises:
        argparse.ArgumentTypeError: as of a path, or the kind of picture is not known.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(text).suffix.removeprefix(".") not in kinds:
        raise argparse.ArgumentTypeError(f"must end in one of .{', .'.join(kinds)}, not {text}")
    return path(text)


def write(out: Path, text: str) -> Path:
    """Writes ``text`` to ``out``, in a folder that is made if it is not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out
