"""The ``model`` section of a config."""

import datetime

from pydantic import Field, model_validator

from sfa.data.template import DATE, Layout, Template
from sfa.values import Overrides, PathOrHubName, Section

TUNED = "tuned"  # label of the model that a stream starts from, if it is known what it was tuned from


class Tokenizer(Section):
    """A byte-level BPE tokenizer trained on tasks' training rows; digits are single tokens."""

    train_on: list[str] | None = Field(None, min_length=1, description="registered tasks; null: those of the stream")
    vocab_size: int = Field(1024, ge=300)


class LoRA(Section):
    """Adapters: only they are trained, and θ_o is the adapters at the start of the task."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="scale of the adapters, times rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field("all-linear", description="modules that get adapters, by name")


class Model(Section):
    """Either a pretrained model by ``name``, or an ``architecture`` with random weights."""

    name: PathOrHubName | None = Field(None, description="hub name or folder of a pretrained model")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    base: PathOrHubName | None = Field(
        None, description="hub name or folder of the model that name was tuned from; name is then θ_o of the first task"
    )
    architecture: str | None = Field(None, description="a transformers model type, like gpt_neox")
    config: Overrides = Field({}, description="the architecture's configuration")
    tokenizer: Tokenizer | None = None
    template: Template = Field("plain", description="how a prompt is presented to the model")
    system: str | None = Field(None, min_length=1, description="under chat, the system message; null: the template's")
    date: datetime.date = Field(DATE, description="the current date for chat templates that print one")
    lora: LoRA | None = Field(None, description="null: all weights are trained")

    @property
    def tuned_from(self) -> "Model | None":
        """The model that this one was tuned from, if that is known."""
        return self.model_copy(update={"name": self.base, "base": None, "revision": None}) if self.base else None

    @property
    def layout(self) -> Layout:
        """How prompts are presented."""
        return Layout(self.template, self.system, self.date)

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        if (self.name is None) == (self.architecture is None):
            raise ValueError("set either name (pretrained) or architecture (random weights)")
        if self.base is not None and self.base == self.name:
            raise ValueError("base must be the model that name was tuned from, not name itself")
        if self.base is not None and self.name is None:
            raise ValueError("base belongs to a model that was tuned from it, by name")
        if self.name is not None and (self.config or self.tokenizer):
            raise ValueError("config and tokenizer belong to an architecture; a pretrained model has its own")
        if self.name is None and self.lora is not None:
            raise ValueError(
                "lora needs a pretrained model by name; random weights under adapters would never be trained"
            )
        return self
