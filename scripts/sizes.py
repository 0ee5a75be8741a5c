"""What the paper's models need on up to 1,024 GPUs, and Llama-2-70B: computed, not measured.

python -m scripts.sizes                                 writes results/sizes.md
python -m scripts.sizes --rate 300 --link 12            with other assumptions about the GPUs

Parameters and shards are counted on the architectures themselves. Steps, tokens, merges and checkpoints are those of
the last stage of a config; bytes per parameter are those of the dry run; the time of a merge on a CPU is the measured
one of results/bench.json. How fast a GPU trains and copies is assumed, and stated.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from tabulate import tabulate

from eval import available
from scripts import files
from scripts.bench import shapes
from scripts.bench.measure import HardwareRecord
from scripts.paper.sweeps import read
from sfa import config as configs
from sfa.errors import UsageError
from sfa.schedule import Clock, Duration
from sfa.stages.describe import size_of
from sfa.stages.needs import FLOAT32, Needs, needs_of
from sfa.stages.plan import Training, plan
from sfa.sweep_description import PEAK, UTILIZATION
from sfa.sweeps import stages
from sfa.terminal import command, start

CONFIGS = {  # by shape; the paper has no config of 70B parameters
    "Pythia-2.8B": "pythia_math_law.yaml",
    "Llama-2-7B": "llama2_math_law.yaml",
    "T0pp": "t0pp_instructions.yaml",
    "Llama-2-70B": "llama2_math_law.yaml",
}
GPUS = (1, 8, 64, 1024)
SWEEP = Path("yamls/sweeps/table1.yaml")


@dataclass(frozen=True)
class Assumptions:
    """About each GPU: floating-point operations a second in training, bytes a second from and to host memory, and bytes
    of memory."""

    rate: float
    link: float
    memory: float


@dataclass(frozen=True)
class LastStage:
    """The last stage of a config, and its number of steps."""

    training: Training
    steps: int

    @property
    def needs(self) -> Needs:
        return needs_of([self.training.train])

    @property
    def merges(self) -> int:
        clock = self.training.method.clock(self.steps, Fraction(self.steps))
        assert clock is not None, "its merges are counted in steps"
        return len(list(clock))

    @property
    def checkpoints(self) -> int:
        """After the last step, the stage is exported instead."""
        interval = Duration.parse(self.training.train.save_interval).in_steps(self.steps, Fraction(self.steps))
        return len(list(Clock(interval, self.steps))) - 1

    def seconds(self, parameters: int, gpus: int, rate: float) -> float:
        """By 6 operations per parameter and token, with one sequence for each GPU if there are more GPUs than
        sequences of a step."""
        train = self.training.train
        tokens = self.steps * max(train.global_batch_size, gpus) * train.seq_len
        return 6.0 * parameters * tokens / (rate * gpus)


def last_stage(file: str) -> LastStage:
    """That of a config in ``yamls``, trained by SFA."""
    last = plan(configs.load(Path("yamls", file), ["method=sfa"], available))[-1]
    assert isinstance(last, Training), "SFA trains every task"
    train = last.train
    return LastStage(last, Duration.parse(train.max_duration).step_count(0, train.global_batch_size, train.seq_len))


@cache
def parameter_shapes(shape: str) -> tuple[tuple[int, ...], ...]:
    """The shape of every parameter of a model."""
    return tuple(tuple(parameter.shape) for parameter in shapes.build(shape, "meta").parameters())


def parameter_count(shape: str) -> int:
    return sum(map(math.prod, parameter_shapes(shape)))


def largest_shard(shape: str, ranks: int) -> int:
    """Parameters of the first rank under FSDP2, which holds the most: of each tensor's rows, a ``ranks``-th rounded
    up."""
    return sum(math.ceil(rows / ranks) * math.prod(rest) for rows, *rest in parameter_shapes(shape))


def measured_merge(file: Path) -> dict[int, float]:
    """Seconds per parameter of a merge on one rank of a CPU, by parameters.

    Raises:
        UsageError: it was not measured.
    """
    content: Mapping[str, HardwareRecord] = json.loads(file.read_text()) if file.is_file() else {}
    for record in content.values():
        rows = record["lines"]["growth"].get("rows", []) if "growth" in record["lines"] else []
        cases = {row["case"].split(" on 1 rank")[0]: row for row in rows if " on 1 rank" in row["case"]}
        if record["device"] == "cpu" and cases:
            return {parameter_count(shape): row["ratio"]["median"] * 1e-9 for shape, row in cases.items()}
    raise UsageError(f"{file} has no measured merges: make bench LINES=growth")


def cpu_seconds(parameters: int, measured: Mapping[int, float]) -> float:
    """Of a merge of so many parameters, interpolated between the measured sizes and linear beyond them."""
    sizes = sorted(measured)
    each = np.interp(math.log(parameters), np.log(sizes), [measured[size] for size in sizes])
    return parameters * float(each)


def table(assumed: Assumptions, measured: Mapping[int, float]) -> str:
    """Both tables in Markdown, and what they assume."""
    by_gpus: list[list[str]] = []
    by_model: list[list[str]] = []
    models = len(stages(read(SWEEP, [], available)))
    for shape, file in CONFIGS.items():
        stage, parameters = last_stage(file), parameter_count(shape)
        needs = stage.needs
        for gpus in GPUS:
            shard = largest_shard(shape, gpus)
            merge = FLOAT32 * shard / assumed.link
            share = stage.merges * merge / stage.seconds(parameters, gpus, assumed.rate)
            held = needs.training * shard
            by_gpus.append([
                shape, f"{gpus:,}", size_of(held) + ("" if held < assumed.memory else " †"), size_of(FLOAT32 * shard),
                _seconds(merge), _seconds(cpu_seconds(shard, measured)), f"{share:.2%}",
                size_of(needs.checkpoints // 2 * shard),
            ])  # fmt: skip
        traffic = stage.checkpoints * (needs.checkpoints // 2) * parameters
        by_model.append([
            shape, f"{parameters:,}", f"`{file}`: {stage.steps} steps, {stage.merges} merges",
            f"{stage.checkpoints} checkpoints, {size_of(traffic)}",
            f"{size_of(FLOAT32 * parameters * models)} + {size_of(needs.checkpoints * parameters)}",
        ])  # fmt: skip
    first = ["model", "parameters", "last stage", "checkpoint traffic of it", "disk of Table 1's sweep"]
    second = ["model", "GPUs", "weights, gradients, AdamW", "θ_o", "a merge", "a merge on a CPU", "of the stage",
              "a checkpoint"]  # fmt: skip
    return "\n\n".join([
        "# The paper's sizes, computed",
        "`python -m scripts.sizes`; nothing here was measured but the merge on a CPU ([costs](../docs/costs.md)).",
        tabulate(by_model, first, tablefmt="github", disable_numparse=True),
        f"The sweep keeps {models} models; the second number is two checkpoints of the stage that trains.",
        tabulate(by_gpus, second, tablefmt="github", disable_numparse=True),
        _assumptions(assumed),
    ])  # fmt: skip


def _assumptions(assumed: Assumptions) -> str:
    lines = [
        "Columns from the third on are of the GPU with the largest shard. † does not fit it.",
        f"- Assumed: a GPU trains at {assumed.rate / 1e12:.0f} TFLOP/s, has {assumed.memory / 2**30:.0f} GiB, and "
        f"copies {assumed.link / 1e9:.0f} GB/s from host memory.",
        "- A merge on a GPU takes as long as the copy of θ_o from host memory; it adds no communication.",
        "- A stage takes 6 operations per parameter and token, and no time for communication. With more GPUs than the "
        "config's sequences of a step, each gets one sequence.",
        "- Activations and unsharded layers come on top.",
    ]
    return "\n".join([lines[0], "", *lines[1:]])


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


@command("python -m scripts.sizes")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=PEAK * UTILIZATION / 1e12, help="TFLOP/s of a GPU in training")
    parser.add_argument("--link", type=float, default=25.0, help="GB/s between a GPU and host memory")
    parser.add_argument("--memory", type=float, default=80.0, help="GiB of a GPU")
    parser.add_argument("--bench", type=Path, default=Path("results/bench.json"), help="measured costs")
    parser.add_argument("--out", type=Path, default=Path("results/sizes.md"))
    args = parser.parse_args(arguments)
    assumed = Assumptions(args.rate * 1e12, args.link * 1e9, args.memory * 2**30)
    files.write(args.out, table(assumed, measured_merge(args.bench)) + "\n")
    print(args.out)
    return 0


if __name__ == "__main__":
    start(main)
