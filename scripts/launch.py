"""Starts ranks with Composer's launcher, without the lines that it prints about itself.

python -m scripts.launch -n 2 -m scripts.run my.yaml

Config errors and interruptions are reported by the ranks. What the launcher says is printed if a rank failed in another
way: it holds the last words of the ranks whose output it keeps.
"""

import contextlib
import io
import signal
import sys
from types import FrameType

from sfa.errors import INTERRUPTED, WRONG

REPORTED = (0, WRONG, INTERRUPTED)
STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)  # codes of ranks that a signal ended at once


def main() -> int:
    """Exit code: that of the ranks; 130 if a signal ended them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        from composer.cli.launcher import main as launch

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        code = launch()
    code = INTERRUPTED if code in STOPPED else code
    if code not in REPORTED:
        print(said.getvalue(), file=sys.stderr)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    """Stops the ranks once: a terminal and the parent both send a signal, and another one would end the launcher while
    the ranks still save a checkpoint."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
