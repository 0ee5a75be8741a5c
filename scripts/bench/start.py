"""The time until a config is checked and its plan is printed, against the import of Composer."""

import sys
from pathlib import Path

from scripts.bench.measure import Row, Setup, commands_in_turn

LINE = "start"


def run(setup: Setup) -> list[Row]:
    composer = str(Path(sys.executable).with_name("composer"))
    configs = {"pythia_math_law": "its model is on the hub", "quickstart": "its model has random weights"}
    commands = {name: [composer, "train.py", f"yamls/{name}.yaml", "dry_run=true"] for name in configs}
    commands["import"] = [sys.executable, "-c", "import composer"]
    taken = commands_in_turn(commands, setup.rounds(5), warm_up=0 if setup.small else 1)
    against = 'python -c "import composer"'
    return [
        Row(
            LINE,
            f"composer train.py yamls/{name}.yaml dry_run=true; {what}",
            against,
            taken[name].seconds,
            taken["import"].seconds,
            1.2,
        )
        for name, what in configs.items()
    ]
