"""Where `make setup` installs the trainers that the tests use in processes of their own, without their dependencies."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = Path(os.environ.get("SFA_TRAINERS", Path(sys.prefix) / "trainers"))
# Composer and Accelerate write these to the environment, even for one process.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def run(arguments: list[str], timeout: float = 600) -> str:
    """Runs Python with those trainers, and returns what it printed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", ""), str(PEERS)]
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment = {**inherited, "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def run_on_two_ranks(module: str, *arguments: str) -> str:
    """:func:`run` a module on two ranks, on a free port."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return run([*launcher, "-m", module, *arguments])
