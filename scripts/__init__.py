"""Commands of the suite."""

import sys

from sfa import extras

if reason := extras.missing("suite"):
    sys.exit(reason)
