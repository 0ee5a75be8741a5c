"""The YAML schema of a run: every key with its type, default and hint."""

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, SerializeAsAny, model_validator

from sfa.concealed import Concealed
from sfa.data import FileName, ImageTask, Task, registered
from sfa.data.template import DATE, Layout, Template
from sfa.values import Checked, LocalPath, PathOrHubName

Duration = Annotated[
    str, Field(pattern=r"^[1-9][0-9_]*(ep|ba|tok)$", description='epochs, batches or tokens, like "1ep" or "300ba"')
]
_PART = r"(0?\.[0-9]*[1-9][0-9]*|1(\.0*)?)dur"
Interval = Annotated[
    str,
    Field(
        pattern=rf"^([1-9][0-9_]*(ba|ep)|{_PART})$",
        description='batches, epochs or a part of the training, like "50ba" or "0.25dur"',
    ),
]
MergeInterval = Annotated[
    str,
    Field(
        pattern=rf"^([1-9][0-9_]*(ba|ep|sp|tok)|{_PART})$",
        description='batches, epochs, samples, tokens or a part of the training, like "50ba" or "0.25dur"',
    ),
]


class Section(Checked):
    """A block of the YAML. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Tokenizer(Section):
    """A byte-level BPE tokenizer trained on tasks' training rows; digits stay single."""

    train_on: list[str] | None = Field(None, min_length=1, description="registered tasks; null: those of the stream")
    vocab_size: int = Field(1024, ge=300)


class LoRA(Section):
    """Adapters: they alone are trained, and θ_o is the adapters at the start of the task."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="scale of the adapters, times rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field("all-linear", description="modules that get adapters, by name")


class Model(Section):
    """Either a pretrained model by ``name``, or an ``architecture`` with random weights."""

    name: PathOrHubName | None = Field(None, description="hub name or folder of a pretrained model")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    architecture: str | None = Field(None, description="a transformers model type, like gpt_neox")
    config: dict[str, Any] = Field({}, description="the architecture's configuration")
    tokenizer: Tokenizer | None = None
    template: Template = Field("plain", description="how a prompt is shown to the model")
    system: str | None = Field(None, min_length=1, description="under chat, the system message; null: none of ours")
    date: datetime.date = Field(DATE, description="the day that a chat template which prints one is told it is")
    lora: LoRA | None = Field(None, description="null: all weights are trained")

    @property
    def layout(self) -> Layout:
        """How prompts are shown."""
        return Layout(self.template, self.system, self.date)

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give either name (pretrained) or architecture (random weights)")
        if self.name is not None and (self.config or self.tokenizer):
            raise ValueError("config and tokenizer belong to an architecture; a pretrained model brings its own")
        if self.name is None and self.lora is not None:
            raise ValueError(
                "lora needs a pretrained model by name; random weights under adapters would never be trained"
            )
        return self


class Train(Section):
    """How one task is trained."""

    max_duration: Duration = "1ep"
    global_batch_size: int = Field(64, ge=1, description="packed sequences, or images, a step, over all ranks")
    microbatch_size: int | None = Field(None, ge=1, description="sequences a rank computes at once; null: all")
    seq_len: int = Field(1024, ge=8, description="tokens of a packed sequence")
    long_rows: Literal["drop", "cut", "error"] = Field(
        "drop", description="rows longer than seq_len: left out, the middle of their prompt taken out, or an error"
    )
    lr: float = Field(2e-5, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: Interval | None = Field("0.03dur", description="null: none")
    max_grad_norm: float | None = Field(1.0, gt=0, description="null: no clipping")
    precision: Literal["auto", "fp32", "amp_bf16"] = Field("auto", description="auto: amp_bf16 on a GPU, else fp32")
    activation_checkpointing: bool = Field(False, description="computes activations again instead of keeping them")
    compile: bool = Field(False, description="torch.compile")
    save_interval: Interval = Field("0.25dur", description="between checkpoints")
    workers: int = Field(0, ge=0, description="processes of each rank that read batches ahead; for augmented images")

    def weights_spec(self) -> dict[str, Any]:
        """What determines the weights; the rest changes rounding, speed or safety."""
        without = {"microbatch_size", "save_interval", "activation_checkpointing", "compile", "workers"}
        if self.long_rows == "drop":  # as if the key were not there
            without.add("long_rows")
        return self.model_dump(mode="json", exclude=without)


class SFABlock(Section):
    """Sequential Fine-tuning with Averaging."""

    p: float | None = Field(0.25, gt=0, le=1, description="fraction of the training between merges")
    every: MergeInterval | None = Field(None, description="stands for p, like 50ba")
    beta: float = Field(0.5, ge=0, le=1, description="weight of the previous task's weights")
    anchor_device: Literal["cpu", "device"] = "cpu"
    reset_optimizer_on_merge: bool = False

    @model_validator(mode="after")
    def _one_interval(self) -> "SFABlock":
        if (self.p is None) == (self.every is None):
            raise ValueError("give either p or every; to use every where a file sets p, add sfa.p=null")
        return self

    def weights_spec(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"anchor_device"})


class Rehearsal(Section):
    """Past tasks' sequences mixed into every batch."""

    fraction: float = Field(0.1, ge=0, lt=1, description="of each batch, on average, from past tasks")
    buffer: int | None = Field(None, ge=1, description="sequences kept of each past task; null: all")

    def weights_spec(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class PenaltyBlock(Section):
    """A penalty on the distance to θ_o."""

    strength: float = Field(0.1, ge=0, description="λ")
    anchor_device: Literal["cpu", "device"] = "cpu"

    def weights_spec(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"anchor_device"})


class EWC(PenaltyBlock):
    """Elastic weight consolidation."""

    strength: float = Field(100.0, ge=0, description="λ")
    fisher: Literal["accumulated", "per_task"] = Field("accumulated", description="one pull to θ_o, or one a past task")
    labels: Literal["empirical", "sampled"] = Field("empirical", description="of the Fisher information")
    examples: int = Field(200, ge=1, description="that the Fisher information of a task is taken over")


class WiseFT(Section):
    """One average after the training."""

    beta: float = Field(0.5, ge=0, le=1, description="weight of the previous task's weights")

    def weights_spec(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class TaskArithmetic(Section):
    """base + Σ wᵢ(θᵢ − base) over models trained on each task alone."""

    weights: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        None, description="one for each task; null: 1/n each"
    )

    def weights_spec(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Ties(TaskArithmetic):
    """Task vectors trimmed, with a common sign, averaged where they agree."""

    density: float = Field(0.2, gt=0, le=1, description="share of each task vector that is kept, the largest entries")
    scale: float = Field(1.0, description="λ, of the merged task vector")


class FisherMerging(TaskArithmetic):
    """Weights averaged by their Fisher information (eq. 15)."""

    labels: Literal["empirical", "sampled"] = Field("empirical", description="of the Fisher information")
    examples: int = Field(200, ge=1, description="that the Fisher information of a task is taken over")
    normalize: bool = Field(
        False, description="divides each task's Fisher information by its norm, and counts at least 1e-6 of it"
    )

    @model_validator(mode="after")
    def _has_mean(self) -> "FisherMerging":
        if self.weights and (min(self.weights) < 0 or self.weights[0] == 0):
            raise ValueError(
                f"weights: must not be negative, and the first more than 0 (the first merge is of its task alone), "
                f"not {self.weights}"
            )
        return self

    def weights_spec(self) -> dict[str, Any]:
        """The default leaves no trace, as before there was a choice."""
        return self.model_dump(mode="json", exclude=set() if self.normalize else {"normalize"})


Method = Literal[
    "sequential",
    "sfa",
    "multitask",
    "rehearsal",
    "l1",
    "l2",
    "ewc",
    "wise_ft",
    "task_arithmetic",
    "ties",
    "fisher",
    "soup",
]


class Eval(Section):
    """What is scored, and how often."""

    tasks: list[str] | None = Field(None, description="evaluations; null: those of the stream's tasks")
    interval: Interval | None = Field("0.25dur", description="null: only at the end of a stage")
    limit: int | None = Field(None, ge=1, description="rows of each evaluation; null: all")
    batch_size: int = Field(32, ge=1)
    unshard: bool = Field(True, description="gather sharded weights to evaluate; false: ranks in lockstep, slower")
    run_generated_code: bool = Field(False, description="lets humaneval run what the model writes, in a sandbox")


class Config(Section):
    """One run: a model, a stream of tasks, a method, a seed."""

    name: FileName = Field(description="names the folder of the results")
    seed: int = Field(17, ge=0, lt=2**32)
    model: Model
    tasks: list[SerializeAsAny[Task]]
    order: list[int] | None = Field(None, description="the stream's tasks in this order, by their places in tasks")
    trial: Duration | None = Field(None, description="trains every task for this long instead, to try a config out")
    method: Method = "sequential"
    sfa: SFABlock = SFABlock()
    rehearsal: Rehearsal = Rehearsal()
    l1: PenaltyBlock = PenaltyBlock()
    l2: PenaltyBlock = PenaltyBlock()
    ewc: EWC = EWC()
    wise_ft: WiseFT = WiseFT()
    task_arithmetic: TaskArithmetic = TaskArithmetic()
    ties: Ties = Ties()
    fisher: FisherMerging = FisherMerging()
    train: Train = Train()
    eval: Eval = Eval()
    parallelism: Literal["none", "ddp", "fsdp2"] = "ddp"
    checkpoint: Literal["sharded", "full"] = Field("sharded", description="form of checkpoints under fsdp2")
    loggers: dict[Literal["tensorboard", "file", "wandb", "mlflow"], dict[str, Any]] = Field(
        {"tensorboard": {}, "file": {}}
    )
    save_folder: LocalPath = Path("runs")
    data_folder: LocalPath | None = Field(
        None, description="local copies of hub data sets, a folder each, by last name"
    )
    dry_run: bool = False
    only: str | None = Field(None, description="makes this stage of the plan alone, by its fingerprint")
    _concealed: Concealed = PrivateAttr(default_factory=Concealed)

    def conceal(self, content: Any) -> Any:
        """``content`` as it is written down, without values from the environment."""
        return self._concealed(content)

    def train_of(self, task: Task) -> Train:
        """The training settings of a task: the run's, overridden by the task's own ``train`` block."""
        trial = {"max_duration": self.trial} if self.trial else {}
        return Train(**{**self.train.model_dump(), **task.train, **trial})

    def classes(self) -> int | None:
        """Labels of the head that classifies images; ``None`` where the stream is of text."""
        found = [task.classes for task in self.tasks if isinstance(task, ImageTask)]
        return max(found) if found else None

    def tokenizer_tasks(self) -> list[Task]:
        """The tasks whose training rows the model's own tokenizer is trained on."""
        if self.model.tokenizer is None:
            return []
        if self.model.tokenizer.train_on is None:
            return sorted(self.tasks, key=lambda task: task.name)
        return [registered(name) for name in sorted(set(self.model.tokenizer.train_on))]

    def evaluations(self) -> list[str]:
        if self.eval.tasks is not None:
            return list(self.eval.tasks)
        return list(dict.fromkeys(name for task in self.tasks for name in task.evals))
