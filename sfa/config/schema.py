"""The YAML schema of a run: every key with its type, default and hint."""

import functools
import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, create_model

from sfa.config.concealed import Concealed
from sfa.data import FileName, Task, registered
from sfa.data.task import GoneTask
from sfa.families import Family, family_of_tasks
from sfa.methods import METHODS, Method, plain_method
from sfa.models.settings import TUNED, Model
from sfa.records import GENERAL
from sfa.values import Interval, LocalPath, Overrides, Section, Spec

Duration = Annotated[
    str, Field(pattern=r"^[1-9][0-9_]*(ep|ba|tok)$", description='epochs, batches or tokens, like "1ep" or "300ba"')
]

LoggerName = Literal["tensorboard", "file", "wandb", "mlflow", "trackio"]


class Train(Section):
    """How one task is trained."""

    max_duration: Duration = "1ep"
    global_batch_size: int = Field(64, ge=1, description="packed sequences, or images, per step, over all ranks")
    microbatch_size: int | None = Field(None, ge=1, description="sequences per forward pass of a rank; null: all")
    seq_len: int = Field(1024, ge=8, description="tokens of a packed sequence")
    long_rows: Literal["drop", "cut", "error"] = Field(
        "drop", description="rows longer than seq_len: dropped, shortened in the middle of the prompt, or an error"
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
    activation_checkpointing: bool = Field(False, description="recomputes activations instead of storing them")
    compile: bool = Field(False, description="torch.compile")
    fused: bool | None = Field(None, description="torch's fused optimizer, one pass a step; null: AdamW on a GPU")
    save_interval: Interval = Field("0.25dur", description="between checkpoints")
    workers: int = Field(0, ge=0, description="processes per rank that prefetch batches; for augmented images")

    def weights_spec(self) -> Spec:
        """The settings that determine weights; the others affect rounding, speed or safety."""
        without = {"microbatch_size", "save_interval", "activation_checkpointing", "compile", "fused", "workers"}
        if self.long_rows == "drop":  # omitted at its default
            without.add("long_rows")
        return self.model_dump(mode="json", exclude=without)


class Eval(Section):
    """What is scored, and how often."""

    tasks: list[str] | None = Field(None, description="evaluations; null: those of the stream's tasks; []: none")
    general: list[str] = Field(
        [], description="the prior suite: tasks of lm-eval by name, scored before the stream and after each stage"
    )
    task_folder: LocalPath | None = Field(None, description="further task files of lm-eval that general may name")
    interval: Interval | None = Field("0.25dur", description="null: only at the end of a stage")
    limit: int | None = Field(None, ge=1, description="rows of each evaluation; null: all")
    batch_size: int = Field(32, ge=1)
    unshard: bool = Field(True, description="gather sharded weights to evaluate; false: ranks in lockstep, slower")
    run_generated_code: bool = Field(False, description="lets humaneval run what the model writes, in a sandbox")


class Config(Section):
    """One run: a model, a stream of tasks, a method, a seed. The class of a loaded config, :func:`config_class`, also
    has a section for each method."""

    name: FileName = Field(description="names the folder of the results")
    seed: int = Field(17, ge=0, lt=2**32)
    model: Model
    tasks: list[SerializeAsAny[Task]]
    order: list[int] | None = Field(None, description="order of the stream's tasks, as indices into tasks")
    trial_duration: Duration | None = Field(
        None, description="trains every task for this long instead, to test a config"
    )
    method: str = plain_method().name
    train: Train = Train()
    eval: Eval = Eval()
    parallelism: Literal["none", "ddp", "fsdp2"] = "ddp"
    checkpoint: Literal["sharded", "full"] = Field("sharded", description="format of checkpoints under fsdp2")
    loggers: dict[LoggerName, Overrides] = Field({"tensorboard": {}, "file": {}})
    from_run: LocalPath | None = Field(
        None, description="folder of a finished run in save_folder: its stages are kept, and only new tasks are trained"
    )
    save_folder: LocalPath = Path("runs")
    data_folder: LocalPath | None = Field(
        None, description="local copies of hub data sets, one folder each, named like the data set"
    )
    dry_run: bool = False
    only: str | None = Field(None, description="makes only this stage of the plan, by fingerprint")
    _kept: list[str] = PrivateAttr(default_factory=list)
    _arguments: list[str] = PrivateAttr(default_factory=list)
    _concealed: Concealed = PrivateAttr(default_factory=Concealed)
    _renamed: list[str] = PrivateAttr(default_factory=list)

    @property
    def method_settings(self) -> Method:
        """The run's method, with its settings."""
        settings: Method = getattr(self, self.method, None) or METHODS[self.method]()
        return settings

    @property
    def deprecations(self) -> list[str]:
        """A line for each key that was written under its former name."""
        return list(self._renamed)

    def conceal(self, content: Any) -> Any:
        """``content`` for writing, without values from the environment."""
        return self._concealed(content)

    def train_of(self, task: Task) -> Train:
        """The training settings of a task: the run's, overridden by the task's own ``train`` section."""
        shortened = {"max_duration": self.trial_duration} if self.trial_duration else {}
        return Train(**{**self.train.model_dump(), **task.train, **shortened})

    def family(self) -> Family:
        """The family of the stream, see :func:`sfa.families.family_of_tasks`."""
        return family_of_tasks([task for task in self.tasks if not isinstance(task, GoneTask)])

    def tokenizer_tasks(self) -> list[Task]:
        """The tasks that the model's tokenizer is trained on, if it is trained here."""
        if self.model.tokenizer is None:
            return []
        if self.model.tokenizer.train_on is None:
            return sorted(self.tasks, key=lambda task: task.name)
        return [registered(name) for name in sorted(set(self.model.tokenizer.train_on))]

    def trained(self) -> list[str]:
        """The names of the tasks that this run trains."""
        return [task.name for task in self.tasks if not task.evaluate_only and task.name not in self._kept]

    @property
    def arguments(self) -> list[str]:
        """What it was loaded from: the file and the overrides."""
        return list(self._arguments)

    def learned(self) -> list[str]:
        """What the run's last model has learned, in order: what it had learned before, if it is known that it had, then
        the trained tasks."""
        if self._kept:
            return [*self._kept, *self.trained()]
        return [TUNED, *self.trained()] if self.model.base is not None else self.trained()

    def learned_before(self) -> list[str]:
        """The names of the tasks that the run's first model has learned: those of the run that it continues, or, if it
        starts from a tuned model, those that are listed before the first trained one, and are evaluated only."""
        if self._kept:
            return list(self._kept)
        if self.model.base is None:
            return []
        return [task.name for task in itertools.takewhile(lambda task: task.evaluate_only, self.tasks)]

    def evaluations(self) -> list[str]:
        if self.eval.tasks is not None:
            return list(self.eval.tasks)
        known = [task for task in self.tasks if not isinstance(task, GoneTask)]
        return list(dict.fromkeys(name for task in known for name in task.evals))

    def general_evaluations(self) -> list[str]:
        """The evaluations of the prior suite."""
        return [f"{GENERAL}{name}" for name in dict.fromkeys(self.eval.general)]


def config_class() -> type[Config]:
    """:class:`Config` with a section for every method that has settings."""
    return _config_class(tuple(METHODS.items()))


@functools.cache
def _config_class(methods: tuple[tuple[str, type[Method]], ...]) -> type[Config]:
    sections: dict[str, Any] = {name: (kind, kind()) for name, kind in methods if kind.model_fields}
    names: Any = Literal[tuple(name for name, _ in methods)]
    return create_model("Config", __base__=Config, method=(names, plain_method().name), **sections)
