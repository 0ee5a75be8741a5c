"""Runs a config: ``composer [-n RANKS] train.py yamls/quickstart.yaml [key=value …]``."""

import os
import sys

from sfa import extras
from sfa.errors import UsageError
from sfa.terminal import command, is_first_rank, quiet, show, start

USAGE = "usage: composer [-n RANKS] train.py CONFIG.yaml [key=value …] [dry_run=true]"


@command("composer train.py")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong config or usage, 130 interrupted."""
    if not arguments:
        raise UsageError(USAGE)
    if arguments[0] in ("-h", "--help"):
        if is_first_rank():
            print(USAGE, file=sys.stderr)
        return 0
    extras.require("suite")
    from eval import available
    from sfa import config as configs

    config = configs.load(arguments[0], arguments[1:], available)
    if config.dry_run:
        from sfa.stages.describe import describe

        if is_first_rank():
            show(describe(config))
        return 0
    quiet()
    if "LOCAL_RANK" in os.environ:
        from sfa.orphans import end_with_parent

        end_with_parent()  # the launcher
    from rich.console import Console

    from eval.evaluator import evaluator
    from sfa.stages.run import make_only, run

    console = Console(quiet=not is_first_rank(), highlight=False, markup=False, soft_wrap=True)
    if config.only is not None:
        make_only(config, evaluator(config), console)
        return 0
    results = run(config, evaluator(config), console)
    if is_first_rank():
        from sfa.curves import draw
        from sfa.runs import results_file, run_folder
        from sfa.stages.results import matrix_text

        folder = run_folder(config.save_folder, config.name)
        picture = draw([folder], folder / "curves.png")
        console.print(f"\n{matrix_text(results)}\n\n{results_file(folder)}  {picture}")
    return 0


if __name__ == "__main__":
    start(main)
