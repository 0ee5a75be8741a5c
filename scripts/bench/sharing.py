"""The trainings that Table 1's sweep takes, against a loop over its rows, and that both come to the same weights."""

import time
from pathlib import Path

from rich.console import Console
from safetensors import safe_open

from eval import available
from eval.evaluator import evaluator
from scripts.bench.measure import Missing, Row, Setup
from scripts.paper.sweeps import read
from sfa import config as configs
from sfa.parallel import join
from sfa.stages import stage
from sfa.stages.context import Context
from sfa.stages.plan import Stage, Training, plan, topological_order
from sfa.sweeps import SweepRun, stages
from sfa.tensors import locations

LINE = "trainings for Table 1's sweep"
SMALL = ["model.name=null", "model.architecture=gpt_neox", "model.config.hidden_size=64", "model.config.vocab_size=512",
         "model.config.num_hidden_layers=2", "model.config.num_attention_heads=4", "model.config.intermediate_size=256",
         "model.tokenizer.vocab_size=512", "model.tokenizer.train_on=[arithmetic]", "train.microbatch_size=null",
         "train.global_batch_size=4", "train.seq_len=256", "train.activation_checkpointing=false",
         "trial_duration=10ba", "eval.tasks=[]", "eval.interval=null", "parallelism=none", "loggers={}"]  # fmt: skip


def run(setup: Setup) -> list[Row]:
    file = Path("yamls/sweeps/table1.yaml")
    data = [f"data_folder={setup.data_folder}"] if setup.data_folder else []
    runs = read(file, data, available)
    once = [part for part, _ in stages(runs)]
    loop = [part for one in runs for part in topological_order(plan(one.config))]
    counted = [float(sum(isinstance(part, Training) for part in parts)) for parts in (once, loop)]
    if counted != [8, 25]:
        raise AssertionError(f"Table 1's sweep takes {counted[0]} trainings and a loop {counted[1]}, not 8 and 25")
    rows = [Row(LINE, "counted in the plan", "a loop over its rows", counted[:1], counted[1:], 8 / 25, unit="")]
    return [*rows, _made(file, data, setup)]


def _made(file: Path, data: list[str], setup: Setup) -> Row:
    """Both made, for a model and durations that take seconds."""
    join()
    sources = [
        "tasks.0.source=openai/gsm8k",
        "tasks.0.subset=main",
        "tasks.0.query=question",
        "tasks.0.response=answer",
    ]
    try:
        shared = read(file, [*data, *sources, *SMALL, f"save_folder={setup.scratch / 'sweep'}"], available)
        alone = [
            read(file, [*data, *sources, *SMALL, f"save_folder={setup.scratch / f'row{i}'}"], available)[i]
            for i in range(len(shared))
        ]
    except configs.ConfigError as error:
        raise Missing(str(error)) from error
    if setup.small:
        shared, alone = shared[:4], alone[:4]
    start = time.perf_counter()
    for part, one in stages(shared):
        stage.make(part, _context(one))
    middle = time.perf_counter()
    for one in alone:  # prepared data are shared by the loop too: what is compared is training
        one.config.save_folder.mkdir()
        (one.config.save_folder / "data").symlink_to(shared[0].config.save_folder / "data")
    for one in alone:
        for part in topological_order(plan(one.config)):
            stage.make(part, _context(one))
    seconds = [middle - start, time.perf_counter() - middle]
    for ours, other in zip(shared, alone, strict=True):
        for part in plan(ours.config):
            _same(part, _context(ours), _context(other))
    case = f"{len(shared)} rows made with a tiny model: the same weights bit for bit, and the time"
    note = "the sweep's time holds the preparation of the data, which the loop then finds"
    return Row(LINE, case, "a loop over its rows", seconds[:1], seconds[1:], note=note)


def _context(run: SweepRun) -> Context:
    return Context.of(run.config, evaluator(run.config), Console(quiet=True))


def _same(part: Stage, ours: Context, other: Context) -> None:
    one, two = (locations(context.model(part)) for context in (ours, other))
    for name, file in one.items():
        with safe_open(file, framework="pt") as a, safe_open(two[name], framework="pt") as b:
            if not a.get_tensor(name).equal(b.get_tensor(name)):
                raise AssertionError(
                    f"{name} of {part.label} ({part.method_name}) differs between the sweep and the loop"
                )
