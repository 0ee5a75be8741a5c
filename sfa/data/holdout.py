"""Which rows are held out of a data set that has no split for it."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from sfa.data.formats import SourceError
from sfa.data.task import held_out

TOO_MANY = 5  # times the share that was asked for


def draw(units: Mapping[str, Sequence[str]], of: int, what: str) -> list[bool]:
    """One row in ``of``, by the hashes of their keys, and one at least: the same on every machine and in any order of
    the rows. All rows of one key are on the same side.

    Args:
        units: keys of the rows by what they are, the widest first, such as ``prompts`` and ``whole rows``. The next is
            taken where so many rows share a key that far more than one in ``of``, or all, would be held out. How the
            lines of a key end makes no difference.
        of: one in how many.
        what: the rows, for messages.

    Raises:
        SourceError: there is no such unit left.
    """
    for unit, keys in units.items():
        plain = [key.replace("\r\n", "\n").replace("\r", "\n") for key in keys]
        counts = Counter(plain)
        held = {key for key in counts if held_out(key, 1, of)} or {min(counts)}
        rows = sum(counts[key] for key in held)
        alone = rows == len(held)  # no row but one has its key
        if len(held) < len(counts) and (alone or rows * of <= TOO_MANY * len(keys)):
            _say(f"{what}: {rows:,} of {len(keys):,} rows are held out, by their {unit}, as there is no test split")
            return [key in held for key in plain]
    raise SourceError(
        f"{what}: no fair part of {len(plain):,} rows with {len(counts):,} different {unit} can be held out; "
        "give it held-out rows of its own, as a split called test"
    )


@functools.cache
def _say(text: str) -> None:
    """Once a process, and by the first of several ranks."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning(text)
