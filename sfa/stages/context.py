"""What making the stages of a run takes, beside the stages themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from composer.loggers import LoggerDestination
from rich.console import Console

from sfa import runs
from sfa.config import loggers
from sfa.config.schema import Config
from sfa.data import Task
from sfa.families import ArrayBuilder, family_of
from sfa.records import Asked
from sfa.stages.callbacks import Evaluator
from sfa.stages.plan import Stage, Training, in_order, plan


@dataclass(frozen=True)
class Context:
    """Where stages are, who evaluates, and how a run wants them made. Nothing of it determines weights.

    Attributes:
        save_folder: that stages, cached arrays and results lie in.
        run: name of the run.
        tasks: of the stream.
        asked: what a manifest says of how prompts are shown and what is done with long rows.
        eval_interval: between evaluations while a stage trains; ``None``: only at its end.
        parallelism: ``none``, ``ddp`` or ``fsdp2``.
        checkpoint: form of checkpoints under fsdp2.
        make_loggers: Composer loggers that write to a folder.
        replan: plans the run again, from its files as they are now.
        conceal: content as it is written down, without values from the environment.
        evaluator: scores live models.
        console: where lines are printed.
        told: lines that are printed once.
    """

    save_folder: Path
    run: str
    tasks: Sequence[Task]
    asked: Asked
    eval_interval: str | None
    parallelism: str
    checkpoint: str
    make_loggers: Callable[[Path], list[LoggerDestination]]
    replan: Callable[[], list[Stage]]
    conceal: Callable[[Any], Any]
    evaluator: Evaluator
    console: Console
    told: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, config: Config, evaluator: Evaluator, console: Console) -> "Context":
        """That of a run."""
        layout, train = config.model.layout, config.train
        asked = {"template": layout.template, **layout.extras(), "seq_len": train.seq_len, "long_rows": train.long_rows}
        return cls(
            save_folder=config.save_folder,
            run=config.name,
            tasks=config.tasks,
            asked=cast(Asked, asked),
            eval_interval=config.eval.interval,
            parallelism=config.parallelism,
            checkpoint=config.checkpoint,
            make_loggers=partial(loggers.make, config),
            replan=lambda: in_order(plan(config)),
            conceal=config.conceal,
            evaluator=evaluator,
            console=console,
        )

    def tell_once(self, line: str) -> None:
        """Prints a line, unless it was printed before."""
        if line not in self.told:
            self.told.add(line)
            self.console.print(line)

    def array_builder(self, stage: Training, processor: Any, configuration: Any, packs: bool = True) -> ArrayBuilder:
        """Builds arrays of tasks' rows as ``stage`` trains on them, for a model with this configuration."""
        train, family = stage.train, family_of(configuration)
        return family.array_builder(processor, configuration, stage.layout, train.seq_len, train.long_rows, packs)

    def folder(self, stage: Stage) -> Path:
        return runs.stage_folder(self.save_folder, stage.fingerprint)

    def model(self, stage: Stage) -> Path:
        return self.folder(stage) / "model"

    def evaluations_while(self, stage: Training) -> list[str]:
        """The evaluations that tell something while ``stage`` trains: not those of tasks that are still to come."""
        now = {task.name for part in (stage, *stage.past) if isinstance(part, Training) for task in part.tasks}
        ahead = {name for task in self.tasks if task.name not in now for name in task.evals}
        mine = {name for task in self.tasks if task.name in now for name in task.evals}
        return [name for name in self.evaluator.names if name in mine or name not in ahead]
