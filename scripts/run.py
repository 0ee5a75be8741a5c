"""Runs a config: every stage of its plan that is not on disk yet, then the results.

sfa run my.yaml
sfa run my.yaml method=sequential name=plain --ranks 2
sfa run yamls/quickstart.yaml dry_run=true

A second YAML and key=value override the config. composer [-n RANKS] train.py takes the same arguments.
"""

import json
import os
import sys

from sfa import extras
from sfa.errors import SFAError, UsageError
from sfa.terminal import TYPED, command, is_first_rank, quiet, say, show, telling, typed

USAGE = "usage: composer [-n RANKS] train.py CONFIG.yaml [key=value …] [dry_run=true]"
OPTIONS = """
  --from RUN    keep the stages of a finished run, such as runs/mine, and train only tasks that it lacks, even if the
                data of its tasks are gone: from_run=RUN
  --dry-run     print what a run would do, and write nothing: dry_run=true
  --ranks N     start N processes under the composer launcher"""


@command("composer train.py")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong config or usage, 130 interrupted."""
    if not arguments:
        raise UsageError(USAGE)
    if {"-h", "--help"} & {*arguments}:
        if is_first_rank():
            print(f"{USAGE}\n\n{__doc__}{OPTIONS}", file=sys.stderr)
        return 0
    extras.require("suite")
    arguments, ranks = _overrides(arguments)
    if ranks > 1:
        from sfa.orphans import run_with_parent

        say(f"starting {ranks} processes")
        os.environ[TYPED] = typed()
        launcher = [sys.executable, "-m", "scripts.launch", "-n", str(ranks), "-m", "scripts.run"]
        return run_with_parent([*launcher, *arguments])
    with telling("reading the config"):
        from eval import available
        from sfa import config as configs

        config = configs.load(arguments[0], arguments[1:], available)
    if config.dry_run:
        from sfa.stages.describe import describe

        if is_first_rank():
            errors: list[str] = []
            show(describe(config, errors))
            if errors:
                raise SFAError("\n".join(["", *errors]))
        return 0
    with telling("loading transformers and datasets"):
        quiet()
    if "LOCAL_RANK" in os.environ:
        from sfa.orphans import end_with_parent

        end_with_parent()  # the launcher
    with telling("loading torch and Composer"):
        from rich.console import Console

        from eval.evaluator import evaluator
        from sfa.stages.run import make_only, run

    console = Console(quiet=not is_first_rank(), highlight=False, markup=False, soft_wrap=True)
    if config.only is not None:
        make_only(config, evaluator(config), console)
        return 0
    results = run(config, evaluator(config), console)
    if is_first_rank():
        from scripts import card, files
        from sfa.curves import draw
        from sfa.runs import CARD, results_file, run_folder, stage_folder
        from sfa.stages.results import matrix_text
        from sfa.stages.score_lines import width_of

        folder = run_folder(config.save_folder, config.name)
        last = stage_folder(config.save_folder, results["stages"][-1]["fingerprint"])
        files.write(folder / CARD, card.of_run(folder, last / "model"))
        if results["evaluations"]:
            picture = draw([folder], folder / "curves.png")
            console.print(f"\n{matrix_text(results, width_of(console))}\n\n{results_file(folder)}  {picture}")
        else:
            console.print(f"\n{results_file(folder)}, without scores, as eval.tasks is empty")
        console.print(f"model: {last / 'model'}\nnext: sfa export {folder} models/{config.name}")
    return 0


def _overrides(arguments: list[str]) -> tuple[list[str], int]:
    """The config and its overrides, with options written as overrides, and the number of ranks to start."""
    overrides, ranks, words = [], 1, iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option == "--dry-run":
            overrides.append("dry_run=true")
        elif option == "--from":
            overrides.append(f"from_run={json.dumps(value or next(words, ''), ensure_ascii=False)}")
        elif option == "--ranks":
            number = value or next(words, "")
            if not number.isdigit() or number == "0":
                raise UsageError(f"--ranks must be a whole number from 1, not {number!r}")
            ranks = int(number)
        else:
            overrides.append(word)
    if not overrides or overrides[0].startswith("-"):
        raise UsageError(USAGE)
    return overrides, ranks


if __name__ == "__main__":
    from sfa.terminal import start

    start(main)
