"""Image classifiers: one head over all labels of a stream."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sfa.data import ImageTask, Task
from sfa.data.template import Layout
from sfa.errors import one_line
from sfa.families.base import Family, Sequences, family_of
from sfa.values import Overrides, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfa.config.schema import Config, Train
    from sfa.data.batches import Transform
    from sfa.data.image_arrays import ImageArrays
    from sfa.models.settings import Model


@dataclass(frozen=True)
class ImageClassifier(Family):
    """Any image classifier of ``transformers``, such as ViT, and this suite's own multilayer perceptron.

    Attributes:
        labels: outputs of the head.
        names: of the outputs, as the model's configuration keeps them; empty: they are not known.
    """

    labels: int
    names: tuple[str, ...] = ()

    name = "image_classifier"
    rows = "images"
    description = "image classifier"
    changes: ClassVar = {"unreadable": "images could not be read and were left out"}
    further_options: ClassVar = ("image_size",)  # of models that accept any size

    @classmethod
    def takes(cls, task: Task) -> bool:
        return isinstance(task, ImageTask)

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task]) -> Self:
        labels = max(task.classes for task in tasks if isinstance(task, ImageTask))
        names = [task.class_names() for task in tasks if isinstance(task, ImageTask)]
        return cls(labels, next((known for known in names if len(known) == labels), ()))

    def config_errors(self, config: "Config") -> list[str]:
        errors = []
        if config.model.tokenizer is not None:
            errors.append("model.tokenizer: must not be set for a stream of images")
        if config.model.lora is not None:
            errors.append("model.lora: is only supported for language models")
        if any(config.train_of(task).max_duration.endswith("tok") for task in config.tasks):
            errors.append("train.max_duration: images are trained for epochs or batches, not tokens")
        return errors

    def base_spec(self) -> Spec:
        """Without names as before there were any, so that finished stages remain valid."""
        return {"classes": self.labels, **({"names": list(self.names)} if self.names else {})}

    def has_random_weights(self, model: "Model") -> bool:
        return True  # the head at least

    def batch_text(self, train: "Train") -> str:
        return f"{train.global_batch_size} images"

    def amount_text(self, train: "Train", steps: int) -> str:
        return f"{steps * train.global_batch_size:,} images"

    def token_count(self, train: "Train", tasks: Sequence[Task]) -> float | None:
        return None

    @classmethod
    def classes(cls) -> Mapping[Any, Any]:
        from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

        return MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    @classmethod
    def refuse(cls, configuration: Any) -> None:
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

        kind = type(configuration)
        if cls.knows(configuration) and (
            kind in MODEL_FOR_MULTIMODAL_LM_MAPPING or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        ):
            raise ValueError(f"{configuration.model_type} takes text as well as images, and an image model is required")

    @classmethod
    def of_configuration(cls, configuration: Any) -> Self:
        return cls(int(configuration.num_labels))

    def options(self, model: "Model", vocab_size: int | None) -> Overrides:
        config = model.config if model.name is None else {}
        if not self.names:
            return {**config, "num_labels": self.labels}
        labels = dict(enumerate(self.names))
        return {**config, "id2label": labels, "label2id": {name: label for label, name in labels.items()}}

    def configuration_errors(self, model: "Model", configuration: Any, seq_len: int) -> list[str]:
        if model.name is not None:  # it comes with an image processor
            return []
        try:
            channels, _, _ = image_size(configuration)
        except (TypeError, ValueError) as error:
            return [f"model.config: no model can be built: {error}"]
        return [] if channels in (1, 3) else [f"model.config.num_channels: must be 1 or 3, not {channels}"]

    def build(self, model: "Model", tokenizer_tasks: Sequence[Task], report: Callable[[str], None]) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, ViTImageProcessor

        from sfa.models.configurations import NO_CODE, read_configuration
        from sfa.models.pretrained import model_errors, read

        with model_errors(model.name or str(model.architecture)):
            configuration = read_configuration(model, self.options(model, None))
            kind = family_of(configuration, self.rows).model_class(configuration)
            if model.name is not None:
                built = read(kind, model.name, report, config=configuration, revision=model.revision)
                processor = AutoImageProcessor.from_pretrained(model.name, revision=model.revision, **NO_CODE)
            else:
                channels, height, width = image_size(configuration)
                half, size = [0.5] * channels, {"height": height, "width": width}
                built = kind(configuration).float()
                processor = ViTImageProcessor(size=size, image_mean=half, image_std=half)
            _try_out(built, processor, self.labels)
        return built, processor

    def check(self, configuration: Any, processor: Any, layout: Layout, seq_len: int) -> None:
        """Nothing to check: it was run with its image processor when built."""

    def array_builder(self, processor: Any, configuration: Any, sequences: Sequences) -> "ImageArrays":
        from sfa.data.image_arrays import ImageArrays, channels_of

        return ImageArrays(processor, channels_of(configuration))

    def transform(self, tasks: Sequence[Task], seed: int) -> "Transform | None":
        if not any(isinstance(task, ImageTask) and task.augment for task in tasks):
            return None
        from sfa.data.augment import Augment

        return Augment(seed)

    def logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        from sfa.data.pixels import normalised

        logits: Tensor = model(pixel_values=normalised(batch["pixel_values"], processor)).logits
        return logits

    def learned_logits(self, model: Any, processor: Any, batch: dict[str, "Tensor"]) -> "Tensor":
        return self.logits(model, processor, batch)

    def only_learned(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        return logits

    def learned_counts(self, batch: dict[str, "Tensor"]) -> "Tensor":
        import torch

        return torch.ones_like(batch["labels"])

    def losses(self, logits: "Tensor", batch: dict[str, "Tensor"]) -> "Tensor":
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), batch["labels"], reduction="none")

    def sample(self, logits: "Tensor", batch: dict[str, "Tensor"], generator: "torch.Generator") -> dict[str, "Tensor"]:
        import torch

        drawn = torch.multinomial(logits.detach().float().cpu().softmax(-1), 1, generator=generator)[:, 0]
        return {**batch, "labels": drawn.to(logits.device)}


def image_size(configuration: Any) -> tuple[int, int, int]:
    """Channels, height and width of the input images of a model with random weights.

    Raises:
        ValueError: its configuration has no image size, as it accepts any.
    """
    from sfa.data.image_arrays import channels_of

    of_images = getattr(configuration, "vision_config", configuration)
    size = getattr(of_images, "image_size", None)
    if size is None:
        raise ValueError(f"image_size is required: {configuration.model_type} takes images of any size")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return channels_of(configuration) or 3, int(height), int(width)


def _try_out(model: Any, processor: Any, labels: int) -> None:
    """Runs a classifier on an image.

    Raises:
        ValueError: it does not work with its image processor.
    """
    import numpy as np
    import torch

    from sfa.data.image_arrays import channels_of
    from sfa.data.pixels import Pixels, normalised

    channels = channels_of(model.config) or 3
    if channels not in (1, 3):
        raise ValueError(f"it takes images of {channels} channels, but only 1 and 3 are supported")
    image = np.arange(channels * 80 * 64, dtype=np.uint8).reshape(channels, 80, 64)
    training = model.training
    try:
        pixels = torch.from_numpy(Pixels(processor, channels)(image))[None]
        with torch.no_grad():
            logits = model.eval()(pixel_values=normalised(pixels, processor)).logits
    except Exception as error:  # each architecture raises its own errors
        raise ValueError(f"it does not accept the output of its image processor: {one_line(error)}") from error
    finally:
        model.train(training)
    if logits.shape != (1, labels):
        raise ValueError(f"it outputs {list(logits.shape)} for an image, but [1, {labels}] is required")
