"""Model soups: the mean of single-task models (Wortsman et al., 2022a)."""

from pathlib import Path

from sfa.methods.base import Look, Sources
from sfa.methods.task_arithmetic import OfSingleTasks


class Soup(OfSingleTasks):
    """The mean of single-task models."""

    name = "soup"
    merge_name = "soup"
    look = Look(style={"color": "#767676", "linestyle": ":", "marker": "X"})

    def merge(self, sources: Sources, out: Path) -> list[str]:
        from sfa import merging

        return merging.soup(sources.models, out)
