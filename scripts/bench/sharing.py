"""The trainings of Table 1's sweep against a loop over its rows, which must lead to the same weights."""

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
    shared = [planned for planned, _ in stages(runs)]
    loop = [planned for row in runs for planned in topological_order(plan(row.config))]
    trainings = [float(sum(isinstance(planned, Training) for planned in stage_list)) for stage_list in (shared, loop)]
    if trainings != [8, 25]:
        raise AssertionError(f"Table 1's sweep takes {trainings[0]} trainings and a loop {trainings[1]}, not 8 and 25")
    rows = [Row(LINE, "counted in the plan", "a loop over its rows", trainings[:1], trainings[1:], 8 / 25, unit="")]
    return [*rows, _train_both(file, data, setup)]


def _train_both(file: Path, data: list[str], setup: Setup) -> Row:
    """Trains both, with a model and durations that take seconds."""
    join()
    sources = [
        "tasks.0.source=openai/gsm8k",
        "tasks.0.subset=main",
        "tasks.0.query=question",
        "tasks.0.response=answer",
    ]
    try:
        shared = read(file, [*data, *sources, *SMALL, f"save_folder={setup.scratch / 'sweep'}"], available)
        separate = [
            read(file, [*data, *sources, *SMALL, f"save_folder={setup.scratch / f'row{i}'}"], available)[i]
            for i in range(len(shared))
        ]
    except configs.ConfigError as error:
        raise Missing(str(error)) from error
    if setup.small:
        shared, separate = shared[:4], separate[:4]
    start = time.perf_counter()
    for planned, run in stages(shared):
        stage.make(planned, _context(run))
    middle = time.perf_counter()
    for run in separate:  # the loop shares the prepared data too, since only training is compared
        run.config.save_folder.mkdir()
        (run.config.save_folder / "data").symlink_to(shared[0].config.save_folder / "data")
    for run in separate:
        for planned in topological_order(plan(run.config)):
            stage.make(planned, _context(run))
    seconds = [middle - start, time.perf_counter() - middle]
    for ours, other in zip(shared, separate, strict=True):
        for planned in plan(ours.config):
            _assert_same(planned, _context(ours), _context(other))
    case = f"{len(shared)} rows trained with a tiny model: bitwise the same weights, and the time"
    note = "the sweep's time includes the preparation of the data, which the loop reuses"
    return Row(LINE, case, "a loop over its rows", seconds[:1], seconds[1:], note=note)


def _context(run: SweepRun) -> Context:
    return Context.of(run.config, evaluator(run.config), Console(quiet=True))


def _assert_same(planned: Stage, ours: Context, other: Context) -> None:
    our_files, other_files = (locations(context.model(planned)) for context in (ours, other))
    for name, file in our_files.items():
        with safe_open(file, framework="pt") as a, safe_open(other_files[name], framework="pt") as b:
            if not a.get_tensor(name).equal(b.get_tensor(name)):
                raise AssertionError(
                    f"{name} of {planned.label} ({planned.method_name}) differs between the sweep and the loop"
                )
