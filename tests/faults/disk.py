"""Takes the disk away from runs, gives it back, and compares their ends with an undisturbed run. For root on Linux.

python -m tests.faults.disk --times 40 --seed 0

Cases, in turn: at a random moment the file system fills up; at a random moment the folders may no longer be written to,
for a process without root's rights; a run is started on a read-only file system that holds half of it. A case is lost
if the run ends otherwise than with exit code 1 and a line that says why, if a finished stage or the last whole
checkpoint is gone, if the second start fails, or if that ends with other weights or results than the undisturbed run.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults import runs

SAID = {
    "full disk": ("No space left on device", "GiB free", "MiB free"),
    "no permission": ("Permission denied",),
    "read-only": ("Read-only file system",),
}


def main() -> int:
    """Exit code: 0 no case was lost, 1 one was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    forks = runs.context()
    rng = random.Random(args.seed)
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        disk, log = Path(name) / "disk", Path(name) / "log"
        disk.mkdir()
        whole = {}
        for method in runs.METHODS:
            start = time.monotonic()
            if runs.start(forks, Path(name) / method, method, log=log).wait():
                raise RuntimeError(f"the undisturbed run of {method} failed:\n{log.read_text()}")
            whole[method] = time.monotonic() - start, runs.content(Path(name) / method)
        for case in range(args.times):
            kind, method = list(SAID)[case % 3], runs.METHODS[case % len(runs.METHODS)]
            length, expected = whole[method]
            _mount("-t", "tmpfs", "-o", "size=256m", "none", str(disk))
            try:
                moment, problem = _case(forks, kind, disk, log, method, rng, length, expected)
            finally:
                subprocess.run(["umount", str(disk)], check=True)
            lost += problem is not None
            print(f"{case + 1:>3}  {kind:<14} {method:<10} {moment:5.1f} s of {length:5.1f} ", problem or "the same")
            sys.stdout.flush()
    return runs.report(args.times, lost, "times the disk was taken away")


def _case(
    forks: Any, kind: str, disk: Path, log: Path, method: str, rng: random.Random, length: float, expected: Any
) -> tuple[float, str | None]:
    """The moment, seconds, and what went wrong."""
    out = disk / "runs"
    while True:
        moment = rng.uniform(0, length)
        run = runs.start(forks, out, method, log=log, ordinary=kind == "no permission")
        if run.wait(moment) is None:
            break
        shutil.rmtree(out)
        length = moment
    before = _kept(out)
    if kind == "full disk":
        _fill(disk / "ballast")
        code = run.wait(120)
        (disk / "ballast").unlink()
    elif kind == "no permission":
        _permit(out, 0o555)
        code = run.wait(120)
        _permit(out, 0o755)
    else:
        os.kill(run.pid, 9)
        run.wait()
        before = _kept(out)
        _mount("-o", "remount,ro", str(disk))
        code = runs.start(forks, out, method, log=log).wait()
        _mount("-o", "remount,rw", str(disk))
    output = log.read_text()
    problem = None
    if code == 0 and runs.difference(expected, runs.content(out)) is None:
        return moment, None  # nothing was left to write
    if code != 1:
        problem = f"exit code {code}: {output[-1500:]}"
    elif "Traceback" in output or not any(words in output for words in SAID[kind]):
        problem = f"it said: {output[-1500:]}"
    elif gone := before - _kept(out):
        problem = f"gone: {gone}"
    else:
        code = runs.start(forks, out, method, log=log).wait()
        problem = f"again: {log.read_text()[-1500:]}" if code else runs.difference(expected, runs.content(out))
    return moment, problem


def _kept(out: Path) -> set[str]:
    """The finished stages."""
    return {file.parent.name for file in out.glob("stages/*/manifest.json")}


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue


def _permit(folder: Path, mode: int) -> None:
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        place.chmod(mode)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
