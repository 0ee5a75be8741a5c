"""How cost grows: a stage over the length of the stream, and a merge over parameters and ranks."""

import gc
import json
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

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
    """The last stages of a stream over its first ones: seconds, and what the process has to itself."""
    rows = []
    for length in (4,) if setup.small else (5, 20, 50):
        seconds, memory = _stages(setup.scratch / f"stream{length}", length, 4 if setup.small else 10)
        part = max(1, (length - 1) // 4)  # the first stage has no anchor and warms up
        case = f"SFA, a stream of {length}: the last {part} stages"
        for what, found, unit in (("seconds", seconds, "s"), ("memory", memory, "B")):
            against = f"the first {part} after the first stage"
            first, last = found[1 : 1 + part], found[-part:]
            rows.append(Row(STREAM, f"{case}, {what}", against, last, first, None if part < 4 else 1.05, unit=unit))
    return rows


def _stages(folder: Path, length: int, steps: int) -> tuple[list[float], list[float]]:
    join()
    config = configs.load(_stream(folder, length, steps), [f"save_folder={folder / 'runs'}"], available)
    context = Context.of(config, evaluator(config), Console(quiet=True))
    seconds, memory, process = [], [], psutil.Process()
    for part in topological_order(plan(config))[1:]:
        if part.parent is not None and part.parent.parent is None:
            stage.make(part.parent, context)
        start = time.perf_counter()
        stage.make(part, context)
        seconds.append(time.perf_counter() - start)
        gc.collect()
        held = process.memory_info()
        memory.append(float(held.rss - held.shared))
    shutil.rmtree(folder)
    return seconds, memory


def _stream(folder: Path, length: int, steps: int) -> Path:
    """A config of ``length`` tasks for the quickstart's model, each 300 rows of arithmetic drawn with its number."""
    rows = registered("arithmetic").rows("train")
    tasks = []
    for k in range(length):
        place = folder / f"task{k:02d}"
        place.mkdir(parents=True)
        part = random.Random(k).sample(rows, 340)
        for split, chosen in (("train", part[40:]), ("test", part[:40])):
            (place / f"{split}.jsonl").write_text("".join(f"{json.dumps(dict(row))}\n" for row in chosen))
        tasks.append({"name": place.name, "source": str(place), "prompt": "{prompt}", "response": "{response}"})
    content = yaml.safe_load(Path("yamls/quickstart.yaml").read_text())
    content |= {"tasks": tasks, "loggers": {}, "trial_duration": f"{steps}ba"}
    content["eval"] |= {"tasks": [], "interval": None}
    (folder / "stream.yaml").write_text(yaml.safe_dump(content))
    return folder / "stream.yaml"


def _over_the_parameters(setup: Setup) -> list[Row]:
    """The time of a merge a parameter of a rank, which is flat if the time is proportional to them, and the exponent of
    a power law through all that are too large for a cache."""
    rows, sizes, times = [], [], []
    names = ["1M", "10M"] if setup.small else ["1M", "10M", "135M", "1B"]
    for count in (1,) if setup.device == "cuda" else (1, 2):
        given: dict[str, Any] = {"names": names, "device": setup.device, "rounds": setup.rounds(9)}
        for name, (parameters, seconds) in on_ranks(count, "scripts.bench.growth:merging", threads=1, **given)[
            0
        ].items():
            each = [taken / parameters * 1e9 for taken in seconds]
            case = f"{name} on {count} rank" + ("s" if count > 1 else "") + ", one thread each"
            rows.append(Row(MERGE, case, "", each, (), unit="ns a parameter of a rank"))
            if name != "1M":
                sizes.append(parameters)
                times.append(statistics.median(seconds))
    slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    return [*rows, Row(MERGE, "exponent of the parameters of a rank, from 10M on", "", [slope], (), 1.1, unit="")]


def merging(names: list[str], device: str, rounds: int) -> dict[str, tuple[int, list[float]]]:
    """Of each shape, this rank's share of the parameters, and seconds of its merge."""
    found = {}
    for name in names:
        model = shapes.build(name, device)
        if dist.get_world_size() > 1:
            for block in model.model.layers:
                fully_shard(block)
            fully_shard(model)
        shards = trained_shards(model)
        anchor = Anchor(shards, "device")

        def together(anchor: Anchor = anchor, shards: dict[str, Tensor] = shards) -> None:
            anchor.merge_into(shards, 0.5)
            dist.barrier()

        count = sum(shard.numel() for shard in shards.values())
        found[name] = count, in_turn({"merge": together}, rounds, warm_up=2)["merge"]
    return found
