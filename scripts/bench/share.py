"""The share of a stage's time that its merges take: measured merges and steps of a short stage, counted as many as the
whole stage has."""

from pathlib import Path

from rich.console import Console

from eval import available
from eval.evaluator import evaluator
from scripts.bench.measure import Missing, Row, Setup
from scripts.bench.tokens import MODEL
from sfa import config as configs
from sfa.parallel import join
from sfa.schedule import merge_steps
from sfa.stages import stage
from sfa.stages.context import Context
from sfa.stages.plan import plan, topological_order

P, STEPS = 0.1, 3  # steps are measured with a merge after each
BOUND = 0.001
CONFIG = Path("yamls/smollm2_math_law.yaml")


def run(setup: Setup) -> list[Row]:
    """The second stage of ``CONFIG``, with merges at p = 0.1 and the distance that SFA logs.

    Raises:
        Missing: the model or the rows were not found.
    """
    if not Path(MODEL).is_dir():
        raise Missing(f"{MODEL} does not exist: make {MODEL}")
    data = [f"data_folder={setup.data_folder}"] if setup.data_folder else []
    short = ["tasks.0.train.max_duration=1ba", f"tasks.1.train.max_duration={STEPS}ba", "eval.tasks=[]", "loggers={}"]
    short += ["method=sfa", "sfa.p=null", "sfa.every=1ba", f"save_folder={setup.scratch}"]
    try:
        whole = configs.load(CONFIG, data, available)
        config = configs.load(CONFIG, [*data, *short], available)
    except configs.ConfigError as error:
        raise Missing(str(error)) from error
    join()
    context = Context.of(config, evaluator(config), Console(quiet=True))
    for planned in topological_order(plan(config)):
        cost = stage.make(planned, context)
    merging = [merge["seconds"] for merge in cost["merges"]]
    step = (cost["seconds"] - sum(merging)) / STEPS
    total = int(whole.train_of(whole.tasks[-1]).max_duration.removesuffix("ba"))
    count = len(merge_steps(total, P))
    train = config.train
    tokens = f"{train.global_batch_size} x {train.seq_len} tokens, {train.precision}, {setup.device}"
    return [
        Row(
            line="the merges' share of a stage, p=0.1",
            case=f"{MODEL}, {CONFIG.name}'s Law: {count} merges in {total} steps of {tokens}",
            against=f"the {total} steps",
            ours=[count * seconds for seconds in merging],
            other=[total * step] * len(merging),
            bound=BOUND,
            note="merges with the distance that SFA logs",
        )
    ]
