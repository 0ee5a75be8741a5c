"""DARE: entries of task vectors dropped at random and the rest rescaled (Yu et al., 2024; mergekit's dare_linear)."""

from pathlib import Path

from pydantic import Field

from sfa.methods.base import Look, Sources
from sfa.methods.task_arithmetic import Weighted


class Dare(Weighted):
    """A weighted sum of task vectors, after random entries of each are dropped and the rest rescaled."""

    name = "dare"
    merge_name = "dare"
    merges_from = True
    draws = True
    acts_on_one_task = True
    look = Look("DARE", {"color": "#CC79A7", "linestyle": ":", "marker": "P"})

    density: float = Field(0.5, gt=0, le=1, description="share of each task vector that is kept, drawn at random")

    def merge(self, sources: Sources, out: Path) -> list[str]:
        import torch

        from sfa.merging import from_base, merge, named_weights

        assert sources.base is not None, "DARE needs a base"
        named = named_weights(self.weights_of(sources), sources.models)
        parameters = {"weight": named, "density": self.density, "normalize": False, "rescale": True}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sources.seed)
            return merge(
                [sources.base, *sources.models],
                lambda tensors: from_base(tensors, "dare_linear", parameters),
                out,
                base=True,
                whole=True,
            )
