"""Runs a config: ``composer [-n RANKS] train.py yamls/quickstart.yaml [key=value …]``."""

from scripts.run import main
from sfa.terminal import start

__all__ = ["main"]

if __name__ == "__main__":
    start(main)
