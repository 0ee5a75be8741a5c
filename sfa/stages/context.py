"""Everything needed to make the stages of a run, apart from the stages themselves."""

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
from sfa.families import ArrayBuilder, Sequences, family_of
from sfa.records import GENERAL, InputSettings
from sfa.stages.callbacks import Evaluator
from sfa.stages.plan import Stage, Training, plan, topological_order


@dataclass(frozen=True)
class Context:
    """Paths, evaluator and options of a run. None of it determines weights.

    Attributes:
        save_folder: folder of stages, cached arrays and results.
        run: name of the run.
        tasks: tasks of the stream.
        learned_before: names of the tasks that the stream's first model has learned before.
        input_settings: how prompts are formatted and long rows handled, as recorded in manifests.
        eval_interval: interval of evaluations during training; ``None``: only at the end of a stage.
        parallelism: ``none``, ``ddp`` or ``fsdp2``.
        checkpoint: format of checkpoints under fsdp2.
        make_loggers: creates Composer loggers that write to a folder.
        replan: plans the run again, from its files as they are now.
        conceal: replaces values from the environment before content is written.
        evaluator: scores live models.
        console: console for messages.
        printed: lines that were printed and are not repeated.
    """

    save_folder: Path
    run: str
    tasks: Sequence[Task]
    learned_before: Sequence[str]
    input_settings: InputSettings
    eval_interval: str | None
    parallelism: str
    checkpoint: str
    make_loggers: Callable[[Path], list[LoggerDestination]]
    replan: Callable[[], list[Stage]]
    conceal: Callable[[Any], Any]
    evaluator: Evaluator
    console: Console
    printed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, config: Config, evaluator: Evaluator, console: Console) -> "Context":
        """The context of a run."""
        layout, train = config.model.layout, config.train
        inputs = {
            "template": layout.template,
            **layout.extras(),
            "seq_len": train.seq_len,
            "long_rows": train.long_rows,
        }
        return cls(
            save_folder=config.save_folder,
            run=config.name,
            tasks=config.tasks,
            learned_before=config.learned_before(),
            input_settings=cast(InputSettings, inputs),
            eval_interval=config.eval.interval,
            parallelism=config.parallelism,
            checkpoint=config.checkpoint,
            make_loggers=partial(loggers.of_stage, config),
            replan=lambda: topological_order(plan(config)),
            conceal=config.conceal,
            evaluator=evaluator,
            console=console,
        )

    def print_once(self, line: str) -> None:
        """Prints a line unless it was already printed."""
        if line not in self.printed:
            self.printed.add(line)
            self.console.print(line)

    def array_builder(self, stage: Training, processor: Any, configuration: Any, packs: bool = True) -> ArrayBuilder:
        """A builder of arrays of tasks' rows as ``stage`` trains on them, for a model with this configuration."""
        train, family = stage.train, family_of(configuration)
        sequences = Sequences(stage.layout, train.seq_len, train.long_rows, packs)
        return family.array_builder(processor, configuration, sequences)

    def folder(self, stage: Stage) -> Path:
        return runs.stage_folder(self.save_folder, stage.fingerprint)

    def model(self, stage: Stage) -> Path:
        return self.folder(stage) / "model"

    def evaluations_during(self, stage: Training) -> list[str]:
        """The evaluations that are informative while ``stage`` trains: not those of later tasks, nor the prior suite,
        which is scored at the end."""
        seen = {*self.learned_before}
        seen |= {task.name for past in (stage, *stage.past) if isinstance(past, Training) for task in past.tasks}
        later = {name for task in self.tasks if task.name not in seen for name in task.evals}
        current = {name for task in self.tasks if task.name in seen for name in task.evals}
        of_stream = [name for name in self.evaluator.names if not name.startswith(GENERAL)]
        return [name for name in of_stream if name in current or name not in later]
