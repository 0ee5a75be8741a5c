"""What all stages of a run share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from sfa import runs
from sfa.callbacks import Evaluator
from sfa.data.prepare import Preparer, preparer
from sfa.kinds import channels_of, is_encoder_decoder
from sfa.plan import Stage
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

    def preparer(self, train: Train, processor: Any, model_config: Any, packs: bool = True) -> Preparer:
        """Makes sequences or images of tasks' rows as ``train`` asks, for a model with this configuration."""
        pairs, channels = is_encoder_decoder(model_config), channels_of(model_config)
        layout = self.config.model.layout
        return preparer(processor, pairs, layout, train.seq_len, train.long_rows, channels, packs)

    def folder(self, stage: Stage) -> Path:
        return runs.stage_folder(self.config.save_folder, stage.fingerprint)

    def seen(self, stage: Stage) -> list[str]:
        """The evaluations that tell something while ``stage`` trains: not those of tasks that are still to come."""
        now = {task.name for part in (stage, *stage.past) for task in part.tasks}
        ahead = {name for task in self.config.tasks if task.name not in now for name in task.evals}
        mine = {name for task in self.config.tasks if task.name in now for name in task.evals}
        return [name for name in self.evaluator.names if name in mine or name not in ahead]

    def model(self, stage: Stage) -> Path:
        return self.folder(stage) / "model"
