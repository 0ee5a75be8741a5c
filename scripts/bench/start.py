"""The time until a config is checked and its plan is printed, against the import of Composer, in CPU time: a start is
bound by it, and other load on the machine does not change it."""

import sys
from pathlib import Path

from scripts.bench.measure import Row, Setup, commands_in_turn

LINE = "start"


def run(setup: Setup) -> list[Row]:
    configs = {"pythia_math_law": "its model is on the hub", "quickstart": "its model has random weights"}
    launchers = {  # composer imports Composer before it starts its processes
        "python": [sys.executable],  # as sfa run does
        "composer": [str(Path(sys.executable).with_name("composer"))],
    }
    commands = {
        (launcher, name): [*words, "train.py", f"yamls/{name}.yaml", "dry_run=true"]
        for name in configs
        for launcher, words in launchers.items()
    }
    imported = [sys.executable, "-c", "import composer"]
    labelled = {" ".join(key): command for key, command in commands.items()}
    taken = commands_in_turn({**labelled, "import": imported}, setup.rounds(3), warm_up=0)
    return [
        Row(
            LINE,
            f"{launcher} train.py yamls/{name}.yaml dry_run=true; {configs[name]}",
            'python -c "import composer"',
            taken[f"{launcher} {name}"].cpu,
            taken["import"].cpu,
            1.2,
            note="CPU time",
        )
        for launcher, name in commands
    ]
