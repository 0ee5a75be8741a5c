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
from composer.utils import dist, get_device
from rich.console import Console
from torch.distributed.fsdp import fully_shard

from eval import available
from eval.evaluator import evaluator
from scripts.bench import shapes
from scripts.bench.measure import Row, Setup, in_turn
from scripts.bench.ranks import on_ranks
from sfa import config as configs
from sfa import stage
from sfa.anchor import Anchor, trained_shards
from sfa.context import Context
from sfa.data import registered
from sfa.plan import in_order, plan

STREAM, MERGE = "how a stage's cost grows over a stream", "how a merge's cost grows"


def run(setup: Setup) -> list[Row]:
    return [*_over_the_stream(setup), *_over_the_parameters(setup)]


def _over_the_stream(setup: Setup) -> list[Row]:
    """The last stages of a stream over its first ones: seconds, and what the process has to itself."""
    rows = []
    for length in (4,) if setup.small else (5, 20, 50):
        seconds, memory = _stages(setup.scratch / f"stream{length}", length, 4 if setup.small else 20)
        part = max(1, (length - 1) // 4)  # the first stage has no anchor and warms up
        case = f"SFA, a stream of {length}: the last {part} stages"
        for what, found, unit in (("seconds", seconds, "s"), ("memory", memory, "B")):
            against = f"the first {part} after the first stage"
            first, last = found[1 : 1 + part], found[-part:]
            rows.append(Row(STREAM, f"{case}, {what}", against, last, first, None if part < 4 else 1.05, unit=unit))
    return rows


def _stages(folder: Path, length: int, steps: int) -> tuple[list[float], list[float]]:
    dist.initialize_dist(get_device(None))
    config = configs.load(_stream(folder, length, steps), [f"save_folder={folder / 'runs'}"], available())
    context = Context(config, evaluator(config), Console(quiet=True))
    seconds, memory, process = [], [], psutil.Process()
    for part in in_order(plan(config))[1:]:
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
    content |= {"tasks": tasks, "loggers": {}, "trial": f"{steps}ba"}
    content["eval"] |= {"tasks": [], "interval": None}
    (folder / "stream.yaml").write_text(yaml.safe_dump(content))
    return folder / "stream.yaml"


def _over_the_parameters(setup: Setup) -> list[Row]:
    """The time of a merge against what it would be if it were proportional to the parameters of a rank."""
    rows, points = [], []
    for count in (1,) if setup.device == "cuda" else (1, 2):
        for shape in ("1M", "10M") if setup.small else ("1M", "10M", "135M", "1B"):
            given: dict[str, Any] = {"shape": shape, "device": setup.device, "rounds": setup.rounds(9)}
            found = on_ranks(count, "scripts.bench.growth:merging", threads=1, **given)
            points.append((shape, count, found[0]["parameters"], found[0]["seconds"]))
            each = [seconds / found[0]["parameters"] * 1e9 for seconds in found[0]["seconds"]]
            case = f"{shape} on {count} rank" + ("s" if count > 1 else "") + ", one thread each"
            rows.append(Row(MERGE, case, "", each, (), unit="ns a parameter of a rank"))
    sizes, times = [np.log([p]) for _, _, p, _ in points], [np.log([statistics.median(t)]) for _, _, _, t in points]
    large = [i for i, (_, _, p, _) in enumerate(points) if setup.small or p > 2e6]  # smaller ones lie in the cache
    slope = float(
        np.polyfit(np.concatenate([sizes[i] for i in large]), np.concatenate([times[i] for i in large]), 1)[0]
    )
    case = "exponent of the parameters of a rank, of all that are larger than the cache"
    return [*rows, Row(MERGE, case, "", [slope], (), 1.1, unit="")]


def merging(shape: str, device: str, rounds: int) -> dict[str, Any]:
    """Seconds of a merge on this rank, and its share of the parameters."""
    model = shapes.build(shape, device)
    if dist.get_world_size() > 1:
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    shards = trained_shards(model)
    anchor = Anchor(shards, "device")

    def together() -> None:
        anchor.merge_into(shards, 0.5)
        dist.barrier()

    seconds = in_turn({"merge": together}, rounds)["merge"]
    return {"parameters": sum(shard.numel() for shard in shards.values()), "seconds": seconds}
