"""What all stages of a run share."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sfa.callbacks import Evaluator
from sfa.plan import Stage
from sfa.schema import Config


@dataclass(frozen=True)
class Context:
    """The config, who evaluates, where lines are printed, and where stages are."""

    config: Config
    evaluator: Evaluator
    console: Console

    def folder(self, stage: Stage) -> Path:
        return self.config.save_folder / "stages" / stage.fingerprint

    def model(self, stage: Stage) -> Path:
        return self.folder(stage) / "model"
