"""How cost grows: a stage over the length of the stream, and a merge over parameters and ranks."""

import gc
import json
import random
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from composer.utils import dist
from rich.console import Console
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from eval import available
from eval.evaluator import evaluator
from scripts.bench import shapes
from scripts.bench.measure import Row, Setup, in_turn
from scripts.bench.ranks import on_ranks
from sfa import config as configs
from sfa.anchor import Anchor, trained_shards
from sfa.data import registered
from sfa.parallel import join
from sfa.stages import stage
from sfa.stages.context import Context
from sfa.stages.plan import plan, topological_order

STREAM, MERGE = "how a stage's cost grows over a stream", "how a merge's cost grows"


def run(setup: Setup) -> list[Row]:
    return [*_over_the_stream(setup), *_over_the_parameters(setup)]


def _over_the_stream(setup: Setup) -> list[Row]:
    """The last stages of a stream relative to its first: seconds, and unshared memory of the process."""
    rows = []
    for length in (4,) if setup.small else (5, 20, 50):
        seconds, memory = _stages(setup.scratch / f"stream{length}", length, 4 if setup.small else 10)
        count = max(1, (length - 1) // 4)  # the first stage has no anchor and is a warm-up
        case = f"SFA, a stream of {length}: the last {count} stages"
        for what, values, unit in (("seconds", seconds, "s"), ("memory", memory, "B")):
            against = f"the first {count} after the first stage"
            first, last = values[1 : 1 + count], values[-count:]
            rows.append(Row(STREAM, f"{case}, {what}", against, last, first, None if count < 4 else 1.05, unit=unit))
    return rows


def _stages(folder: Path, length: int, steps: int) -> tuple[list[float], list[float]]:
    join()
    config = configs.load(_stream(folder, length, steps), [f"save_folder={folder / 'runs'}"], available)
    context = Context.of(config, evaluator(config), Console(quiet=True))
    seconds, memory, process = [], [], psutil.Process()
    for planned in topological_order(plan(config))[1:]:
        if planned.parent is not None and planned.parent.parent is None:
            stage.make(planned.parent, context)
        start = time.perf_counter()
        stage.make(planned, context)
        seconds.append(time.perf_counter() - start)
        gc.collect()
        usage = process.memory_info()
        memory.append(float(usage.rss - usage.shared))
    shutil.rmtree(folder)
    return seconds, memory


def _stream(folder: Path, length: int, steps: int) -> Path:
    """A config of ``length`` tasks for the quickstart's model, each 300 rows of arithmetic, its index the seed."""
    rows = registered("arithmetic").rows("train")
    tasks = []
    for k in range(length):
        data = folder / f"task{k:02d}"
        data.mkdir(parents=True)
        sample = random.Random(k).sample(rows, 340)
        for split, selected in (("train", sample[40:]), ("test", sample[:40])):
            (data / f"{split}.jsonl").write_text("".join(f"{json.dumps(dict(row))}\n" for row in selected))
        tasks.append({"name": data.name, "source": str(data), "prompt": "{prompt}", "response": "{response}"})
    content = yaml.safe_load(Path("yamls/quickstart.yaml").read_text())
    content |= {"tasks": tasks, "loggers": {}, "trial_duration": f"{steps}ba"}
    content["eval"] |= {"tasks": [], "interval": None}
    (folder / "stream.yaml").write_text(yaml.safe_dump(content))
    return folder / "stream.yaml"


def _over_the_parameters(setup: Setup) -> list[Row]:
    """A merge's time per parameter of a rank, constant if the time is proportional to them, and the exponent of a power
    law through the sizes that exceed the cache."""
    rows, sizes, times = [], [], []
    names = ["1M", "10M"] if setup.small else ["1M", "10M", "135M", "1B"]
    for count in (1,) if setup.device == "cuda" else (1, 2):
        results, *_ = on_ranks(
            count, "scripts.bench.growth:merging", threads=1, names=names, device=setup.device, rounds=setup.rounds(9)
        )
        for name, (parameters, seconds) in results.items():
            per_parameter = [taken / parameters * 1e9 for taken in seconds]
            case = f"{name} on {count} rank" + ("s" if count > 1 else "") + ", one thread each"
            rows.append(Row(MERGE, case, "", per_parameter, (), unit="ns a parameter of a rank"))
            if name != "1M":
                sizes.append(parameters)
                times.append(statistics.median(seconds))
    slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    return [*rows, Row(MERGE, "exponent of the parameters of a rank, from 10M on", "", [slope], (), 1.1, unit="")]


def merging(names: list[str], device: str, rounds: int) -> dict[str, tuple[int, list[float]]]:
    """By shape, this rank's number of parameters and the seconds of a merge."""
    by_shape = {}
    for name in names:
        model = shapes.build(name, device)
        if dist.get_world_size() > 1:
            for layer in model.model.layers:
                fully_shard(layer)
            fully_shard(model)
        shards = trained_shards(model)
        anchor = Anchor(shards, "device")

        def merge(anchor: Anchor = anchor, shards: dict[str, Tensor] = shards) -> None:
            anchor.merge_into(shards, 0.5)
            dist.barrier()

        count = sum(shard.numel() for shard in shards.values())
        by_shape[name] = count, in_turn({"merge": merge}, rounds, warm_up=2)["merge"]
    return by_shape
