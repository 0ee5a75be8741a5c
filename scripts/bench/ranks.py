"""Calls a function on several ranks under the Composer launcher, and brings back what each returned."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def on_ranks(ranks: int, work: str, threads: int | None = None, **given: Any) -> list[Any]:
    """What ``work(**given)`` returned on each rank; both go through JSON.

    Args:
        ranks: processes on this machine.
        work: ``module:function``.
        threads: of each rank; the launcher's choice unless given.

    Raises:
        RuntimeError: a rank failed; holds the end of what it printed.
    """
    launcher = str(Path(sys.executable).with_name("composer"))
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        words = ["-n", str(ranks), "-m", "scripts.bench.ranks", work, json.dumps(given), str(out)]
        done = subprocess.run([launcher, *words], check=False, capture_output=True, text=True, env=environment)
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{work} failed on {ranks} ranks: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return list(json.loads(out.read_text()))


def main(work: str, given: str, out: str) -> None:
    from composer.utils import dist

    from sfa.parallel import join

    join()
    module, _, function = work.partition(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(given))
    everywhere = dist.all_gather_object(found)
    if dist.get_global_rank() == 0:
        Path(out).write_text(json.dumps(everywhere))
    dist.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
