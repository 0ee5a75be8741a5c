"""Held-out rows that a task is trained on as well."""

from collections.abc import Sequence

from sfa.data.task import Row


def overlap(train: Sequence[Row], test: Sequence[Row], name: str) -> str | None:
    """A line about held-out rows whose prompts are trained on; ``None`` if there are none.

    Args:
        train: rows to train on.
        test: held-out rows.
        name: the task, for the line.
    """
    responses: dict[str, set[str]] = {}
    for row in train:
        responses.setdefault(row["prompt"], set()).add(row["response"])
    prompts = sum(row["prompt"] in responses for row in test)
    whole = sum(row["response"] in responses.get(row["prompt"], ()) for row in test)
    if not prompts:
        return None
    return f"{name}: the prompts of {prompts:,} of {len(test):,} held-out rows are also trained on" + (
        f", {whole:,} of them with the same response" if whole else ""
    )
