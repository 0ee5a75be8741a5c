"""Trains a stream of many tasks in one process, and shows what the process holds after each.

python -m tests.faults.long --tasks 50

The model is the quickstart's; each task is 300 rows of arithmetic, drawn with its number for a seed, and 20 steps.
Memory is what the process has to itself (resident less shared). Exit code 1 if, from the tenth task to the last, open
files or threads grew, or memory grew by more than a hundredth.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
import yaml

from sfa.data import registered
from tests.faults import runs


def main() -> int:
    """Exit code: 0 nothing grew, 1 something did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50)
    args = parser.parse_args()
    forks = runs.context()
    with tempfile.TemporaryDirectory() as name:
        out, log = Path(name) / "runs", Path(name) / "log"
        config = _stream(Path(name), args.tasks)
        run = runs.start(forks, out, "sfa", log=log, arguments=[str(config)])
        process, seen = psutil.Process(run.pid), []
        while run.wait(0.02) is None:
            if len(list(out.glob("stages/*/manifest.json"))) > len(seen):
                seen.append(_held(process))
                memory, files, threads = seen[-1]
                print(
                    f"{len(seen) - 1:>3} tasks  {memory / 2**20:7.1f} MiB  {files} files  {threads} threads", flush=True
                )
        if run.wait():
            print(log.read_text()[-3000:])
            return 1
    early, late = seen[10:20], seen[-10:]
    medians = [[statistics.median(held[i] for held in part) for part in (early, late)] for i in range(3)]
    memory, files, threads = (late / early for early, late in medians)
    print(
        f"of the last ten tasks over the tenth to the twentieth: memory {memory:.4f}, files {files}, threads {threads}"
    )
    return 1 if memory > 1.01 or files > 1 or threads > 1 else 0


def _held(process: psutil.Process) -> tuple[int, int, int]:
    """Bytes, open files and threads."""
    memory = process.memory_info()
    return memory.rss - memory.shared, process.num_fds(), process.num_threads()


def _stream(folder: Path, count: int) -> Path:
    rows = registered("arithmetic").rows("train")
    templates = {"prompt": "{prompt}", "response": "{response}"}
    tasks = []
    for k in range(count):
        place = folder / f"task{k:02d}"
        place.mkdir()
        part = random.Random(k).sample(rows, 340)
        for split, chosen in (("train", part[40:]), ("test", part[:40])):
            (place / f"{split}.jsonl").write_text("".join(f"{json.dumps(dict(row))}\n" for row in chosen))
        tasks.append({"name": place.name, "source": str(place), **templates})
    content = yaml.safe_load((runs.ROOT / "yamls" / "quickstart.yaml").read_text())
    content |= {"tasks": tasks, "loggers": {"tensorboard": {}, "file": {}}}
    content["train"]["max_duration"] = "20ba"
    content["eval"] |= {"limit": 10, "interval": None}
    (folder / "long.yaml").write_text(yaml.safe_dump(content))
    return folder / "long.yaml"


if __name__ == "__main__":
    sys.exit(main())
