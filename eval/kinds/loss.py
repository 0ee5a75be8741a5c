"""``<task>_loss``: the loss on a task's held-out rows, as in training."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from eval.kind import RankResult, with_counts
from eval.text import TextKind
from sfa.data import TASKS, Task
from sfa.records import Score


class Loss(TextKind):
    """Mean cross-entropy over the tokens of the responses."""

    name: ClassVar[str] = "loss"
    lower_is_better: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("eval.row_losses",)

    @classmethod
    def owned(cls, stream: Sequence[Task]) -> list[str]:
        of_stream = [name for task in stream for name, kind in task.declared().items() if kind == cls.name]
        if stream and not of_stream:  # of images
            return []
        declared = {name: kind for title, task in TASKS.items() for name, kind in task.declares(title).items()}
        return list(dict.fromkeys([*(name for name, kind in declared.items() if kind == cls.name), *of_stream]))

    def key(self, name: str) -> str:
        return self.key_of(f"loss {self.settings.seq_len} {self.settings.long_rows}", name)

    def load(self, name: str, model: Any, processor: Any) -> None:
        self.set_rows(name, self.sources[name].rows("test"))

    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        """The summed loss and the number of tokens of each row."""
        from eval.row_losses import row_losses
        from sfa.data.text_arrays import TextArrays
        from sfa.families import Sequences, family_of

        settings = self.settings
        sequences = Sequences(settings.layout, settings.seq_len, settings.long_rows)
        builder = family_of(model.config).array_builder(processor, model.config, sequences)
        assert isinstance(builder, TextArrays), "only language models have a loss evaluation"
        results = {}
        for name, wanted in rows.items():
            name_rows = [self.rows[name][i] for i in wanted]
            losses, cut = row_losses(model, builder, name_rows, settings.batch_size, settings.bf16, name)
            results[name] = RankResult(losses, len(name_rows) - len(losses), cut)
        return results

    def score(self, name: str, results: Sequence[RankResult]) -> Score:
        """A ratio of sums; its standard error is from the delta method.

        Raises:
            SourceError: all rows are too long.
        """
        from sfa.data.packing import none_fits

        values = np.concatenate([result.values for result in results])
        n = len(values)
        if not n:
            raise none_fits(name, self.settings.seq_len)
        loss = float(values[:, 0].sum() / values[:, 1].sum())
        squared_error = ((values[:, 0] - loss * values[:, 1]) ** 2).sum() * n / max(n - 1, 1)
        stderr = float(np.sqrt(squared_error) / values[:, 1].sum())
        return with_counts(Score(evaluation=name, metric="loss", value=loss, stderr=stderr, n=n), results)
