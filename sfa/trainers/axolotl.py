"""SFA as a plugin of axolotl, whose trainers are transformers' Trainer."""

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from sfa.trainers.huggingface import SFACallback

PREFIX = "sfa_"


class SFAArguments(BaseModel):
    """The keys of SFA in axolotl's YAML; without ``sfa_p`` and ``sfa_every``, SFA is off. See :class:`SFACallback`."""

    sfa_p: float | None = None
    sfa_every: str | None = None
    sfa_beta: float = 0.5
    sfa_anchor: str | None = None
    sfa_anchor_device: str = "cpu"
    sfa_merge: str = "factors"
    sfa_beta_end: float | None = None


class SFAPlugin(BasePlugin):
    """``plugins: [sfa.axolotl.SFAPlugin]`` and ``sfa_p: 0.25`` in axolotl's YAML."""

    def get_input_args(self) -> str:
        return f"{SFAArguments.__module__}.{SFAArguments.__qualname__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        given = {
            name.removeprefix(PREFIX): cfg[name] for name in SFAArguments.model_fields if cfg.get(name) is not None
        }
        return [SFACallback(**given)] if given.keys() & {"p", "every"} else []
