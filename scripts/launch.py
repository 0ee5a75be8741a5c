"""Starts ranks with Composer's launcher, without the lines that it prints about itself.

python -m scripts.launch -n 2 -m scripts.run my.yaml

A rank's config error, or an interruption, is reported by the rank. What the launcher says is printed if a rank failed in
another way: it holds the last words of the ranks whose output it keeps.
"""

import contextlib
import io
import signal
import sys

from sfa.errors import INTERRUPTED, WRONG

REPORTED = (0, WRONG, INTERRUPTED)
STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)  # codes of ranks that a signal ended


def main() -> int:
    """Exit code: that of the ranks; 130 if a signal ended them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        from composer.cli.launcher import main as launch

        code = launch()
    code = INTERRUPTED if code in STOPPED else code
    if code not in REPORTED:
        print(said.getvalue(), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
