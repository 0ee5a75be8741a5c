"""Measures the suite's costs against other tools and writes results/bench.json, .md and .png.

python -m scripts.bench --data-folder DIR                  everything, on the CPU
python -m scripts.bench --device cuda                      on a GPU; adds its numbers
python -m scripts.bench --only merging penalties           only these lines

DIR has gsm8k/, casehold/, claudette_tos/, overruling/ and dbpedia/, each with <split>.parquet in the hub's columns;
without it they come from the hub. Both sides of a comparison run alternately, so that other load on the machine affects
both.
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

LINES = ("merging", "share", "memory", "stage", "penalties", "fisher", "tokens", "flops", "sharing", "forking",
         "folders", "evaluation", "choices", "start", "growth", "sizes")  # fmt: skip
PACKAGES = ("torch", "mosaicml", "transformers", "lm_eval", "mergekit")


@command("python -m scripts.bench")
def main(arguments: list[str]) -> int:
    """Exit code: 0, or nonzero if a line failed or could not be measured for a reason other than its device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data-folder", type=Path, help="local copies of hub data sets")
    parser.add_argument("--only", nargs="+", choices=LINES, default=LINES, metavar="LINE", help=", ".join(LINES))
    parser.add_argument("--small", action="store_true", help="only to test the code; the numbers are meaningless")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    parser.add_argument("--scratch", type=Path, help="folder for models, 20 GB; default: the system's")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device was found")
    if len(args.only) > 1:
        # Each in its own process, so that none inherits another's memory or environment.
        command_line = [sys.executable, "-m", "scripts.bench", *arguments, "--only"]
        return max(abs(subprocess.run([*command_line, line], check=False).returncode) for line in args.only)
    (line,) = args.only
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        setup = Setup(args.device, args.data_folder, Path(scratch), args.small)
        try:
            rows = [row.record() for row in importlib.import_module(f"scripts.bench.{line}").run(setup)]
            outcome: Outcome = {"rows": rows}
        except Missing as error:
            print(f"{line}: not measured: {error}", file=sys.stderr)
            outcome = {"missing": str(error)}
    seconds = round(time.perf_counter() - started)
    record: LineRecord = {**outcome, "date": time.strftime("%Y-%m-%d"), "seconds": seconds}
    for row in record.get("rows", []):
        print(_summary(row), flush=True)
    _save(args.out, args.device, line, record)
    write(args.out)
    return 1 if "missing" in record and line != "flops" else 0


def _summary(row: RowRecord) -> str:
    ratio, verdict = row["ratio"], {True: "holds", False: "missed", None: "no bound"}[row["holds"]]
    bound = f" ({row['sense']} {row['bound']:g})" if row["bound"] is not None else ""
    interval = f"[{ratio['low']:.4g}, {ratio['high']:.4g}]"
    return f"{row['line']}: {row['case']}: {ratio['median']:.4g} {interval}{bound} {verdict}"


def _save(file: Path, device: str, line: str, record: LineRecord) -> None:
    """Adds a line's numbers to those of the other lines and hardware in ``file``."""
    content: dict[str, HardwareRecord] = json.loads(file.read_text()) if file.is_file() else {}
    entry = content.setdefault(_hardware(device), {"device": device, "lines": {}, "versions": {}})
    entry["versions"] = {name: version(name) for name in PACKAGES}
    entry["lines"][line] = record
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def _hardware(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    if not shutil.which("hyperfine"):
        print("hyperfine, which times commands, is not installed: apt-get install hyperfine time", file=sys.stderr)
    start(main)
