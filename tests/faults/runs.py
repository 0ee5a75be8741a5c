"""Small runs of the quickstart in processes of their own, and what they end with."""

import ctypes
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import all_kinds
from sfa.methods import METHODS as REGISTERED

ROOT = Path(__file__).parent.parent.parent
COMPOSER = str(Path(sys.executable).with_name("composer"))
RUN = [
    "yamls/quickstart.yaml",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "train.max_duration=60ba",
    "train.save_interval=10ba",
    "eval.limit=40",
    "eval.interval=20ba",
    "sdft.limit=40",
]
MEASURED = ("seconds", "merge_seconds", "peak_bytes")  # of a stage, what two runs of the same differ in
METHODS = sorted(REGISTERED)


class Process:
    """A run: a fork of a process that has imported everything, or the launcher with its ranks."""

    def __init__(self, process: Any):
        self.process = process
        self.pid: int = process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; ``None`` if it still runs after ``timeout`` seconds."""
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(timeout)
        code: int | None = self.process.exitcode
        return code


def context() -> Any:
    """Where runs are forked from."""
    os.chdir(ROOT)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("forkserver")
    used = [module for kind in all_kinds() for module in kind.modules]
    context.set_forkserver_preload(["train", "eval.evaluator", *used, "sfa.stages.run"])
    return context


def start(
    forks: Any, out: Path, method: str, log: Path | None = None, ordinary: bool = False, arguments: Sequence[str] = ()
) -> Process:
    """Starts a run in one process.

    Args:
        forks: a :func:`context`.
        out: where it keeps everything.
        method: of the run.
        log: the file that its output goes to.
        ordinary: without root's right to write everywhere.
        arguments: further ones; the first may be another config.
    """
    process = forks.Process(target=_train, args=(_arguments(out, method, arguments), str(log or os.devnull), ordinary))
    process.start()
    return Process(process)


def launch(out: Path, method: str, ranks: int, arguments: Sequence[str] = ()) -> Process:
    """Starts a run on several ranks, in a process group of its own."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [COMPOSER, "-n", str(ranks), "train.py", *_arguments(out, method, arguments)]
    return Process(subprocess.Popen(command, start_new_session=True, **quiet))


def _arguments(out: Path, method: str, further: Sequence[str]) -> list[str]:
    own = further and further[0].endswith(".yaml")
    return [
        *([further[0]] if own else RUN),
        f"method={method}",
        f"save_folder={out}",
        "name=run",
        *further[bool(own) :],
    ]


def _train(arguments: list[str], log: str, ordinary: bool) -> None:
    import train

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if ordinary:
        _give_up_rights()
    sys.exit(train.main(arguments))


def _give_up_rights() -> None:
    """Drops all of the process's capabilities (capset(2), version 3)."""
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


def content(out: Path) -> dict[str, Any]:
    """The bytes of all models, and results.json without what is measured."""
    models = {file.parent.parent.name: file.read_bytes() for file in out.glob("stages/*/model/model.safetensors")}
    results = json.loads((out / "run" / "results.json").read_text())
    results["config"].pop("save_folder")
    results.pop("arguments")  # they name it, too
    for stage in results["stages"]:
        for key in MEASURED:
            stage.pop(key, None)
    return {"models": models, "results": results}


def difference(expected: dict[str, Any], actual: dict[str, Any]) -> str | None:
    """What of two runs' :func:`content` differs."""
    if expected["models"].keys() != actual["models"].keys():
        return "other stages"
    for name, weights in expected["models"].items():
        if actual["models"][name] != weights:
            return f"other weights in {name}"
    return None if expected["results"] == actual["results"] else "other results"


def state(out: Path) -> str:
    """What there is of a run."""
    done = len(list(out.glob("stages/*/manifest.json")))
    saved = len(list(out.glob("stages/*/checkpoints/*")))
    return f"{done} stages done, {saved} checkpoints"


def report(tried: int, lost: int, what: str) -> int:
    """The exit code of a script: 1 if any case was lost."""
    print(f"{tried} {what}, {lost} lost")
    return 1 if lost else 0
