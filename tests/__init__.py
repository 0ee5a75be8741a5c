"""The launcher that stands beside this Python, which need not be on PATH."""

import shutil
import sys
from pathlib import Path

COMPOSER = shutil.which("composer", path=str(Path(sys.executable).parent)) or "composer"
