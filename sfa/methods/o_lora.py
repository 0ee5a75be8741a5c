"""Orthogonal low-rank adaptation (Wang et al., 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sfa.methods.base import Fit, Look
from sfa.methods.osf import Tuned

if TYPE_CHECKING:
    from composer.core import Algorithm
    from peft import PeftConfig
    from torch import Tensor

    from sfa.stages.plan import Stage, Stream

FOLDER = "factors"  # of a stage, with the factors A of its task


class OLoRA(Tuned):
    """An adapter for each task, L(θ) + λ·Σ_i Σ|A·A_iᵀ| with the factors A_i of past tasks; finished adapters are
    merged into the weights."""

    name = "o_lora"
    needs_past_data = True
    acts_on_one_task = True
    neutral = ("strength", 0)
    look = Look("O-LoRA", {"color": "#009E73", "linestyle": "-", "marker": "H"})

    strength: float = Field(0.5, ge=0, description="λ")
    rank: int = Field(8, ge=1, description="of each task's adapter")
    alpha: float = Field(32, gt=0, description="scale of the adapters, times rank")

    def stages(self, stream: Stream) -> list[Stage]:
        """The first task has an adapter too, to which later ones are orthogonal."""
        stages = list(stream.given)
        for task in stream.tasks:
            stages.append(stream.train([task], self, stages[-1], stream.past(stages)))
        return stages

    def neutral_notice(self) -> str | None:
        return (
            f"{self.name}.strength=0 trains an adapter for each task without a penalty" if not self.strength else None
        )

    def tuner(self) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=self.target_modules)  # type: ignore[arg-type]

    def algorithms(self, fit: Fit) -> list[Algorithm]:
        from safetensors.torch import load_file

        from sfa.store import verify_checksums
        from sfa.trainers.orthogonal import Orthogonality

        files = [verify_checksums(past.folder / FOLDER) / "a.safetensors" for past in fit.past]
        return [Orthogonality(self.strength, [load_file(file) for file in files])]

    def plain(self, model: Any, folder: Path) -> Any:
        from composer.utils import dist
        from safetensors.torch import save_file

        from sfa.store import write_checksums

        if dist.get_global_rank() == 0:
            factors: dict[str, Tensor] = {
                name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if ".lora_A." in name
            }
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            save_file(factors, folder / FOLDER / "a.safetensors")
            write_checksums(folder / FOLDER)
        return super().plain(model, folder)
