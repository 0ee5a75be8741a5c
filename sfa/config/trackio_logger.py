"""Trackio as a logger of Composer, which has none for it."""

import contextlib
import io
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist


class TrackioLogger(LoggerDestination):
    """Logs to `Trackio <https://github.com/gradio-app/trackio>`_, on rank 0.

    Args:
        project: name of the project.
        name: name of the run; defaults to the Trainer's.
        group: name of the run's group.
        init_kwargs: further arguments of ``trackio.init``, such as ``space_id``.
    """

    def __init__(
        self,
        project: str = "sfa",
        name: str | None = None,
        group: str | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ):
        self.project, self.name, self.group = project, name, group
        self.init_kwargs = init_kwargs or {}
        self.run: Any = None

    def init(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() != 0:
            return
        import trackio

        with _silence():
            self.run = trackio.init(
                self.project, self.name or state.run_name, self.group, **{"embed": False, **self.init_kwargs}
            )

    def log_hyperparameters(self, hyperparameters: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.config.update(hyperparameters)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if self.run is not None:
            self.run.log({name: float(value) for name, value in metrics.items()}, step)

    def log_table(
        self, columns: list[str], rows: list[list[Any]], name: str = "Table", step: int | None = None
    ) -> None:
        if self.run is not None:
            import trackio

            self.run.log({name: trackio.Table(columns=columns, data=rows)}, step)

    def post_close(self) -> None:
        if self.run is not None:
            import trackio

            with _silence():
                trackio.finish()
            self.run = None


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Discards the lines that Trackio prints about every run."""
    return contextlib.redirect_stdout(io.StringIO())
