"""Which rows are held out of a data set without a test split."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from sfa.data.formats import SourceError
from sfa.data.task import held_out

TOO_MANY = 5  # times the requested share


def draw(units: Mapping[str, Sequence[str]], of: int, what: str, share: int = 1) -> list[bool]:
    """Holds out ``share`` rows in ``of``, at least one, by the hashes of their keys: the same on every machine and in
    any order of the rows. Rows with the same key are on the same side.

    Args:
        units: alternative keys of the rows by name, coarsest first, such as ``prompts`` and ``whole rows``. The next is
            used if so many rows share a key that far more than that, or all, would be held out. Line endings in keys
            are normalized.
        of: hold out ``share`` in this many.
        what: the rows, for messages.
        share: rows in ``of`` that are held out.

    Raises:
        SourceError: no unit works.
    """
    for unit, keys in units.items():
        plain = [key.replace("\r\n", "\n").replace("\r", "\n") for key in keys]
        counts = Counter(plain)
        held_out_keys = {key for key in counts if held_out(key, share, of)} or {min(counts)}
        rows = sum(counts[key] for key in held_out_keys)
        keys_are_unique = rows == len(held_out_keys)  # no two rows share a key
        if len(held_out_keys) < len(counts) and (keys_are_unique or rows * of <= TOO_MANY * share * len(keys)):
            _log_once(
                f"{what}: {rows:,} of {len(keys):,} rows are held out, by their {unit}, as there is no test split"
            )
            return [key in held_out_keys for key in plain]
    raise SourceError(
        f"{what}: no fair share of {len(plain):,} rows with {len(counts):,} different {unit} can be held out; "
        "provide held-out rows as a split named test"
    )


@functools.cache
def _log_once(text: str) -> None:
    """Logs once a process, and only on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning(text)
