"""What a sweep would save if stages that are equal up to their first merge were trained once up to there."""

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from eval import available
from scripts.bench.measure import Missing, Row, Setup
from scripts.paper.sweeps import read
from sfa.config import ConfigError
from sfa.families import family_of_tasks
from sfa.stages.plan import Stage, Training
from sfa.store import fingerprint
from sfa.sweeps import stages

SWEEPS = ("table1", "words", "words_code", "words_orders")
STEPS = 1000  # of any training, to compare the places of first merges


def run(setup: Setup) -> list[Row]:
    """Tokens that each sweep trains on, counted in its plan; nothing is trained."""
    data = [f"data_folder={setup.data_folder}"] if setup.data_folder else []
    rows = []
    for name in SWEEPS:
        try:
            planned = [stage for stage, _ in stages(read(Path(f"yamls/sweeps/{name}.yaml"), data, available))]
        except ConfigError as error:
            raise Missing(str(error)) from error
        total, saved = tokens_saved(planned)
        case = f"{name}.yaml, millions of tokens"
        rows.append(
            Row(
                line="a sweep whose stages fork at their first merges, counted",
                case=case,
                against="each stage from its start, as it is",
                ours=[(total - saved) / 1e6],
                other=[total / 1e6],
                unit="",
            )
        )
    return rows


def tokens_saved(planned: Iterable[Stage]) -> tuple[float, float]:
    """The tokens of all trainings, and how many of them are before the first merge of a stage that is equal up to there
    to one that merges later or never."""
    total, shared = 0.0, defaultdict[str, list[float]](list)
    for stage in planned:
        if isinstance(stage, Training):
            tokens = family_of_tasks(stage.tasks).token_count(stage.train, stage.tasks)
            assert tokens is not None, "these tasks have durations in steps, or epochs of known size"
            total += tokens
            spec = {key: value for key, value in stage.spec().items() if key != "method"}
            shared[fingerprint(spec)].append(tokens * _plain_part(stage))
    return total, sum(sum(parts) - max(parts) for parts in shared.values())


def _plain_part(stage: Training) -> float:
    """The part of a training during which it is plain fine-tuning."""
    if stage.method.is_plain:
        return 1.0
    clock = stage.method.clock(STEPS, Fraction(STEPS))
    return min(1.0, float(clock.interval / STEPS)) if clock is not None else 0.0
