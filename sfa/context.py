"""What all stages of a run share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from sfa import runs
from sfa.callbacks import Evaluator
from sfa.families import ArrayBuilder, family_of
from sfa.plan import Stage, Training
from sfa.schema import Config, Train


@dataclass(frozen=True)
class Context:
    """The config, who evaluates, where lines are printed and which were, and where stages are."""

    config: Config
    evaluator: Evaluator
    console: Console
    told: set[str] = field(default_factory=set)

    def tell_once(self, line: str) -> None:
        """Prints a line, unless it was printed before."""
        if line not in self.told:
            self.told.add(line)
            self.console.print(line)

    def array_builder(self, train: Train, processor: Any, configuration: Any, packs: bool = True) -> ArrayBuilder:
        """Builds arrays of tasks' rows as ``train`` asks, for a model with this configuration."""
        layout = self.config.model.layout
        family = family_of(configuration)
        return family.array_builder(processor, configuration, layout, train.seq_len, train.long_rows, packs)

    def folder(self, stage: Stage) -> Path:
        return runs.stage_folder(self.config.save_folder, stage.fingerprint)

    def evaluations_while(self, stage: Training) -> list[str]:
        """The evaluations that tell something while ``stage`` trains: not those of tasks that are still to come."""
        now = {task.name for part in (stage, *stage.past) if isinstance(part, Training) for task in part.tasks}
        ahead = {name for task in self.config.tasks if task.name not in now for name in task.evals}
        mine = {name for task in self.config.tasks if task.name in now for name in task.evals}
        return [name for name in self.evaluator.names if name in mine or name not in ahead]

    def model(self, stage: Stage) -> Path:
        return self.folder(stage) / "model"
