"""Calls a function on several ranks under the Composer launcher and collects the results."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def on_ranks(ranks: int, work: str, threads: int | None = None, **arguments: Any) -> list[Any]:
    """The result of ``work(**arguments)`` on each rank; arguments and results are passed as JSON.

    Args:
        ranks: processes on this machine.
        work: ``module:function``.
        threads: per rank; ``None``: the launcher's choice.

    Raises:
        RuntimeError: a rank failed; the message ends with its output.
    """
    launcher = str(Path(sys.executable).with_name("composer"))
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        words = ["-n", str(ranks), "-m", "scripts.bench.ranks", work, json.dumps(arguments), str(out)]
        process = subprocess.run([launcher, *words], check=False, capture_output=True, text=True, env=environment)
        if process.returncode or not out.is_file():
            raise RuntimeError(f"{work} failed on {ranks} ranks: {process.stdout[-2000:]}{process.stderr[-2000:]}")
        return list(json.loads(out.read_text()))


def main(work: str, arguments: str, out: str) -> None:
    from composer.utils import dist

    from sfa.parallel import join

    join()
    module, _, function = work.partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    results = dist.all_gather_object(result)
    if dist.get_global_rank() == 0:
        Path(out).write_text(json.dumps(results))
    dist.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
