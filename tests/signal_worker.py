"""Runs ``train.py`` and sends itself a signal at the end of a step: argv is the signal, the step and the arguments."""

import os
import signal
import sys
from typing import Any

import train
from sfa.stages.callbacks import Stopper


def main(name: str, step: str, *arguments: str) -> int:
    number, batch_end = signal.Signals[name], Stopper.batch_end

    def stopped(stopper: Stopper, state: Any, logger: Any) -> None:
        if state.timestamp.batch == int(step):
            os.kill(os.getpid(), number)
        batch_end(stopper, state, logger)

    Stopper.batch_end = stopped  # type: ignore[method-assign]
    return train.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
