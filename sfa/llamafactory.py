"""``python -m sfa.llamafactory train.yaml --sfa-p 0.25``: LLaMA-Factory's ``train`` with SFA as a callback."""

import argparse
import sys
from collections.abc import Sequence

from sfa.trainers.huggingface import SFACallback


def main(arguments: Sequence[str]) -> None:
    """Runs ``llamafactory-cli train`` on the arguments that are not SFA's own."""
    parser = argparse.ArgumentParser(prog="python -m sfa.llamafactory", allow_abbrev=False)
    parser.add_argument("--sfa-p", type=float, dest="p", help="fraction of the training between merges")
    parser.add_argument("--sfa-every", dest="every", help="instead of p, like 50ba")
    parser.add_argument("--sfa-beta", type=float, default=0.5, dest="beta", help="weight of the old weights")
    parser.add_argument("--sfa-beta-end", type=float, dest="beta_end", help="that of the last merge, if β changes")
    parser.add_argument("--sfa-anchor", dest="anchor", help="folder or hub name of the model with the old weights")
    parser.add_argument("--sfa-merge", default="factors", dest="merge", help="of LoRA: factors or product")
    ours, theirs = parser.parse_known_args(arguments)
    callback = SFACallback(**vars(ours))
    from llamafactory.train.tuner import run_exp  # reads sys.argv

    sys.argv[1:] = theirs
    run_exp(callbacks=[callback])


if __name__ == "__main__":
    main(sys.argv[1:])
