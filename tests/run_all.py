"""Run by the Composer launcher: runs each of the argument lists in the JSON file argv[1], one after another."""

import json
import sys
from pathlib import Path

import train

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        assert train.main(arguments) == 0, arguments
