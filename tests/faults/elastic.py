"""Stops runs on a number of ranks, continues them on another, and compares with one that was left alone.

python -m tests.faults.elastic

From two ranks to one and from one to two, under DDP and under FSDP2 with sharded and with full checkpoints: SIGTERM
once the stream's second task has written a checkpoint, then the same command with the other number. SGD, since AdamW
turns rounding into steps of the learning rate. A case is lost if the second start fails or if a weight differs from
the undisturbed run's by more than 1e-5.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load

from tests.faults import runs

FORMS = {
    "ddp": ["parallelism=ddp"],
    "fsdp2, sharded": ["parallelism=fsdp2", "checkpoint=sharded"],
    "fsdp2, full": ["parallelism=fsdp2", "checkpoint=full"],
}
SETTINGS = [
    "train.optimizer=sgd",
    "train.momentum=0.9",
    "train.lr=0.1",
    "train.save_interval=2ba",
    "eval.interval=null",
]


def main() -> int:
    """Exit code: 0 no case was lost, 1 one was."""
    forks = runs.context()
    lost = cases = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if runs.start(forks, folder / "whole", "sfa", arguments=SETTINGS).wait():
            raise RuntimeError("the undisturbed run failed")
        whole = runs.content(folder / "whole")["models"]
        for form, options in FORMS.items():
            for before, after in ((2, 1), (1, 2)):
                out = folder / f"case{cases}"
                cases += 1
                first = runs.launch(out, "sfa", before, [*SETTINGS, *options])
                while first.wait(0.02) is None:
                    done = len(list(out.glob("stages/*/manifest.json")))
                    if done >= 2 and list(out.glob("stages/*/checkpoints/*")):
                        break
                time.sleep(0.2)
                stopped_at = runs.state(out)
                os.killpg(first.pid, signal.SIGTERM)
                first.wait()
                code = runs.launch(out, "sfa", after, [*SETTINGS, *options]).wait()
                worst = None if code else _worst(whole, runs.content(out)["models"])
                lost += worst is None or worst > 1e-5
                verdict = f"exit code {code}" if worst is None else f"differs by {worst:.1e}"
                print(f"{form:<15} {before} → {after}  {stopped_at:<32} {verdict}", flush=True)
    return runs.report(cases, lost, "stopped and continued on other ranks")


def _worst(expected: dict[str, bytes], actual: dict[str, bytes]) -> float:
    """The largest difference of a weight of any stage."""
    assert expected.keys() == actual.keys()
    worst = 0.0
    for stage, content in expected.items():
        theirs = load(actual[stage])
        for name, weight in load(content).items():
            worst = max(worst, float(torch.max(torch.abs(weight - theirs[name]))))
    return worst


if __name__ == "__main__":
    sys.exit(main())
