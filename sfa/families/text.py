"""What decoders and encoder-decoders share: language models that learn a response to a prompt."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sfa.data import ImageTask, Task
from sfa.data.template import Layout
from sfa.errors import one_line
from sfa.families.base import Family, family_of
from sfa.values import Overrides, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfa.config.schema import Config, Train
    from sfa.data.tokens import Encoder
    from sfa.models.settings import LoRA, Model

SENSES = ("vision", "image", "video", "audio", "speech")  # in the name of a component for other input than text
LONG_ROWS = {
    "drop": "are left out and counted",
    "cut": "lose the middle of their prompt and are counted, or are left out if their response is too long",
    "error": "stop the run",
}


class LanguageModel(Family):
    """A model that learns responses to prompts.

    Attributes:
        seq2seq: whether prompt and response are two sequences.
        shift: by how many positions logits precede the labels that they predict.
        adapter_task: the family's task type in ``peft``.
    """

    rows = "text"
    description = "language model"
    changes: ClassVar = {
        "dropped": "rows are longer than {} tokens and were left out",
        "cut": "rows are longer than {} tokens and lost the middle of their prompt",
    }
    seq2seq: ClassVar[bool]
    shift: ClassVar[int]
    adapter_task: ClassVar[str]

    @classmethod
    def takes(cls, task: Task) -> bool:
        return not isinstance(task, ImageTask)

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task]) -> Self:
        return cls()

    @classmethod
    def of_configuration(cls, configuration: Any) -> Self:
        return cls()

    def config_errors(self, config: "Config") -> list[str]:
        if config.model.architecture is not None and config.model.tokenizer is None:
            return ["model.tokenizer: is required for an architecture with random weights"]
        return []

    def base_spec(self) -> Spec:
        return {}

    def has_random_weights(self, model: "Model") -> bool:
        return model.name is None or model.lora is not None

    def batch_text(self, train: "Train") -> str:
        return f"{train.global_batch_size} x {train.seq_len} tokens"

    def amount_text(self, train: "Train", steps: int) -> str:
        return f"at most {steps * train.global_batch_size * train.seq_len:,} tokens"

    def token_count(self, train: "Train", tasks: Sequence[Task]) -> float | None:
        unit = train.max_duration.lstrip("0123456789_")
        value = int(train.max_duration.removesuffix(unit).replace("_", ""))
        if unit != "ep":
            return float(value if unit == "tok" else value * train.global_batch_size * train.seq_len)
        epochs = [task.epoch_tokens for task in tasks]
        return None if None in epochs else value * sum(epoch for epoch in epochs if epoch is not None)

    def plan_notes(self, trains: Iterable["Train"]) -> list[str]:
        rules = dict.fromkeys(train.long_rows for train in trains)
        return [f"     rows longer than a sequence {LONG_ROWS[rule]} (train.long_rows: {rule})" for rule in rules]

    @classmethod
    def knows(cls, configuration: Any) -> bool:
        is_seq2seq = bool(getattr(configuration, "is_encoder_decoder", False))
        return is_seq2seq == cls.seq2seq and super().knows(configuration)

    @classmethod
    def refuse(cls, configuration: Any) -> None:
        if _is_multimodal(configuration):
            kind = configuration.model_type
            raise ValueError(f"{kind} takes images or sound as well as text, and a text-only checkpoint is required")

    def options(self, model: "Model", vocab_size: int | None) -> Overrides:
        if model.name is not None:
            return {}
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0}
        tokens = {} if vocab_size is None else {"vocab_size": vocab_size}
        return {**tokens, **special, **model.config}

    def configuration_errors(self, model: "Model", configuration: Any, seq_len: int) -> list[str]:
        vocab_size, errors = model.tokenizer.vocab_size if model.tokenizer else None, []
        key = "model.name" if model.architecture is None else "model.config"
        if vocab_size is not None and configuration.vocab_size < vocab_size:
            errors.append(f"{key}.vocab_size: {configuration.vocab_size} is less than the tokenizer's {vocab_size}")
        return [*errors, *_too_long(configuration, seq_len)]

    def build(self, model: "Model", tokenizer_tasks: Sequence[Task], report: Callable[[str], None]) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from sfa.models.configurations import NO_CODE, read_configuration
        from sfa.models.pretrained import model_errors, read
        from sfa.models.tokenizer_training import train_tokenizer

        tokenizer: Any = None
        if model.name is None:
            assert model.tokenizer is not None, "the config requires one with an architecture"
            tokenizer = train_tokenizer(model.tokenizer.vocab_size, tokenizer_tasks)
        with model_errors(model.name or str(model.architecture)):
            configuration = read_configuration(model, self.options(model, len(tokenizer) if tokenizer else None))
            family = family_of(configuration, self.rows)
            assert isinstance(family, LanguageModel), "no other family takes text"
            kind = family.model_class(configuration)
            if model.name is None:
                built = kind(configuration).float()
            else:
                tokenizer = AutoTokenizer.from_pretrained(model.name, revision=model.revision, **NO_CODE)
                built = read(kind, model.name, revision=model.revision)
                built = family.with_adapters(built, model.lora, model.revision) if model.lora else built
            tokenizer("text")  # raises if one of its settings is invalid
            family.try_out(built, tokenizer)
        return built, tokenizer

    def with_adapters(self, model: Any, lora: "LoRA", revision: str | None = None) -> Any:
        """``model`` with new adapters, which record the model's revision."""
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            task_type=self.adapter_task,
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works as well
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            revision=revision,
        )
        return get_peft_model(model, adapters)

    @abstractmethod
    def try_out(self, model: Any, tokenizer: Any) -> None:
        """Runs a model on a few tokens.

        Raises:
            ValueError: its input is not text, or it sees the tokens to predict.
        """

    def check(self, configuration: Any, processor: Any, layout: Layout, seq_len: int) -> None:
        from sfa.models.pretrained import ModelError

        if len(processor) > configuration.vocab_size:
            raise ModelError(
                f"the tokenizer has {len(processor)} tokens, but the model only {configuration.vocab_size} embeddings"
            )
        if processor.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-text token, so no response would end")
        try:
            self.encoder(processor, layout)
        except ValueError as error:
            raise ModelError(one_line(error)) from error
        if errors := _too_long(configuration, seq_len):
            raise ModelError(errors[0])

    def encoder(self, tokenizer: Any, layout: Layout) -> "Encoder":
        """The encoder of prompts and responses to token ids.

        Raises:
            TemplateError: the layout cannot be used with the tokenizer.
        """
        from sfa.data.tokens import Encoder

        return Encoder(tokenizer, layout, self.seq2seq)

    def logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """In training, logits are only computed for learned tokens: a prompt's would cost the same and enter no
        loss."""
        from sfa.models.token_loss import learned, only

        head = model.get_output_embeddings() if model.training else None
        if head is None:
            return self.all_logits(model, batch)
        with only(learned(batch["labels"], self.shift), head):
            return self.all_logits(model, batch)

    def learned_logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        from sfa.models.token_loss import learned, only

        positions, head = learned(batch["labels"], self.shift), model.get_output_embeddings()
        if head is None:
            return self.all_logits(model, batch)[positions]
        with only(positions, head):
            return self.all_logits(model, batch)

    def only_learned(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        from sfa.models.token_loss import learned

        return logits if logits.ndim == 2 else logits[learned(batch["labels"], self.shift)]

    def learned_counts(self, batch: dict[str, "Tensor"]) -> "Tensor":
        from sfa.models.token_loss import learned

        return learned(batch["labels"], self.shift).sum(1)

    @abstractmethod
    def all_logits(self, model: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        """Logits of all positions, ``[batch, length, vocab]``."""

    def losses(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        from sfa.models.token_loss import losses

        return losses(logits, batch["labels"], self.shift)

    def sample(self, logits: "Tensor", batch: dict[str, "Tensor"], generator: "torch.Generator") -> dict[str, "Tensor"]:
        from sfa.models.token_loss import sampled

        return {**batch, "labels": sampled(logits, batch["labels"], self.shift, generator)}


def position_count(configuration: Any) -> int | None:
    """The number of positions of a language model; ``None`` if it has no table of them."""
    names = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len")
    counts = (getattr(configuration.get_text_config(decoder=True), name, None) for name in names)
    return next((int(count) for count in counts if isinstance(count, int) and count > 0), None)


def _too_long(configuration: Any, seq_len: int) -> list[str]:
    positions = position_count(configuration)
    if positions is None or seq_len <= positions:
        return []
    return [f"train.seq_len: {seq_len} is longer than the {positions} positions that the model has"]


def _is_multimodal(configuration: Any) -> bool:
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    )

    kind = type(configuration)
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return True
    if kind in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return kind not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:  # some have a text component for class names
        return False
    sub_configs = getattr(kind, "sub_configs", None) or {}
    return any(sense in name for name in sub_configs for sense in SENSES)
