"""Measures what this suite costs against what else does the same, and writes results/bench.json, .md and .png.

python -m scripts.bench --data-folder DIR                  everything, on the CPU
python -m scripts.bench --device cuda                      on a GPU; its numbers are added
python -m scripts.bench --only merging penalties           some lines again

DIR has gsm8k/, casehold/, claudette_tos/ and overruling/, each <split>.parquet with the hub's columns; without it they
come from the hub. Every comparison runs both in turn, so that what else the machine does falls on both.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from scripts.bench.measure import HardwareRecord, LineRecord, Missing, Outcome, RowRecord, Setup
from scripts.bench.report import write
from sfa.store import write_json
from sfa.terminal import command, start

LINES = ("merging", "memory", "stage", "penalties", "fisher", "tokens", "flops", "sharing", "folders", "evaluation",
         "start", "growth")  # fmt: skip
PACKAGES = ("torch", "mosaicml", "transformers", "lm_eval", "mergekit")


@command("python -m scripts.bench")
def main(arguments: list[str]) -> int:
    """Exit code: 0, or another if a line failed, or could not be measured for another reason than its device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data-folder", type=Path, help="local copies of hub data sets")
    parser.add_argument("--only", nargs="+", choices=LINES, default=LINES, metavar="LINE", help=", ".join(LINES))
    parser.add_argument("--small", action="store_true", help="only tries the code out; the numbers say nothing")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    parser.add_argument("--scratch", type=Path, help="where models are written, 20 GB; the system's unless given")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is there")
    if len(given.only) > 1:
        # Each in a process of its own: what one leaves in memory and in the environment is not the next one's.
        again = [sys.executable, "-m", "scripts.bench", *arguments, "--only"]
        return max(abs(subprocess.run([*again, line], check=False).returncode) for line in given.only)
    (line,) = given.only
    warnings.filterwarnings("ignore")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        setup = Setup(given.device, given.data_folder, Path(scratch), given.small)
        try:
            rows = [row.record() for row in importlib.import_module(f"scripts.bench.{line}").run(setup)]
            outcome: Outcome = {"rows": rows}
        except Missing as error:
            print(f"{line}: not measured: {error}", file=sys.stderr)
            outcome = {"missing": str(error)}
    seconds = round(time.perf_counter() - begun)
    found: LineRecord = {**outcome, "date": time.strftime("%Y-%m-%d"), "seconds": seconds}
    for row in found.get("rows", []):
        print(_told(row), flush=True)
    _keep(given.out, given.device, line, found)
    write(given.out)
    return 1 if "missing" in found and line != "flops" else 0


def _told(row: RowRecord) -> str:
    ratio, held = row["ratio"], {True: "holds", False: "missed", None: "told"}[row["holds"]]
    bound = f" ({row['sense']} {row['bound']:g})" if row["bound"] is not None else ""
    return (
        f"{row['line']}: {row['case']}: {ratio['median']:.4g} [{ratio['low']:.4g}, {ratio['high']:.4g}]{bound} {held}"
    )


def _keep(file: Path, device: str, line: str, found: LineRecord) -> None:
    """Writes a line's numbers beside those of the other lines and of other hardware."""
    content: dict[str, HardwareRecord] = json.loads(file.read_text()) if file.is_file() else {}
    place = content.setdefault(_hardware(device), {"device": device, "lines": {}, "versions": {}})
    place["versions"] = {name: version(name) for name in PACKAGES}
    place["lines"][line] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def _hardware(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    if not shutil.which("hyperfine"):
        print("hyperfine is not installed, which times commands: apt-get install hyperfine time", file=sys.stderr)
    start(main)
