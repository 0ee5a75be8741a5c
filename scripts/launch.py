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

from sfa.errors import INTERRUPTED, WRONG, Interrupted
from sfa.terminal import command, start

REPORTED = (0, WRONG, INTERRUPTED)
ENDED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)  # codes of ranks that a signal ended while they started


@command("sfa run")
def main(arguments: list[str]) -> int:
    """Exit code: that of the ranks.

    Raises:
        Interrupted: a signal ended the ranks before they could report it.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        from composer.cli.launcher import main as launch

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        code: int = launch()
    if code in ENDED:
        raise Interrupted()
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
    start(main)
