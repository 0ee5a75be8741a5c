"""Orthogonal subspace fine-tuning (Nayak et al., 2025; peft's implementation), and the base class of methods that train
with a tuner of peft."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sfa.methods.base import Fit, Look, Method

if TYPE_CHECKING:
    from peft import PeftConfig


class Tuned(Method):
    """Trains what a tuner of peft puts into the model, which is merged into the weights after each task."""

    rows = ("text",)

    target_modules: str | list[str] = Field("all-linear", description="modules that are trained, by name")

    @abstractmethod
    def tuner(self) -> "PeftConfig":
        """The tuner's settings."""

    def tuned(self, model: Any, fit: Fit) -> Any:
        import numpy as np
        import torch
        from peft import get_peft_model

        seed = int(np.random.SeedSequence([fit.seed, len(fit.past)]).generate_state(1)[0])  # another one for each task
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, self.tuner())

    def plain(self, model: Any, folder: Path) -> Any:
        return model.merge_and_unload()

    def model_errors(self, has_adapters: bool, is_sharded: bool) -> list[str]:
        adapters = f"model.lora: must not be set, as {self.name} puts parameters of its own into the model"
        sharded = f"parallelism: must not be fsdp2, as {self.name} works on whole matrices"
        return [adapters] * has_adapters + [sharded] * is_sharded


class OSF(Tuned):
    """The largest singular directions of θ_o's matrices stay as they are, and gradients are orthogonal to them."""

    name = "osf"
    look = Look("OSF", {"color": "#56B4E9", "linestyle": "--", "marker": "h"})

    preserved: float = Field(0.5, gt=0, lt=1, description="share of each matrix's singular directions that stay")

    def tuned(self, model: Any, fit: Fit) -> Any:
        """Decomposed on a GPU, if there is one, as on CPU that of a large model is slow."""
        from composer.utils import get_device

        return super().tuned(get_device(None).module_to_device(model), fit)

    def tuner(self) -> "PeftConfig":
        from peft import OSFConfig

        return OSFConfig(effective_rank=self.preserved, target_modules=self.target_modules)
