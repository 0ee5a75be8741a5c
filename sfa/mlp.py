"""A multilayer perceptron on images as a model of ``transformers``: ``architecture: mlp``."""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class MLPConfig(PreTrainedConfig):
    """Sizes of the images and of the hidden layers."""

    model_type = "mlp"

    def __init__(
        self, image_size: int = 28, num_channels: int = 1, hidden_sizes: tuple[int, ...] = (100,), **rest: Any
    ):
        self.image_size, self.num_channels, self.hidden_sizes = image_size, num_channels, list(hidden_sizes)
        super().__init__(**rest)


class MLPForImageClassification(PreTrainedModel):
    """Linear layers with ReLU between them; torch's own initialization."""

    config_class = MLPConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MLPConfig):
        super().__init__(config)
        inputs = config.num_channels * config.image_size**2
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inputs, *config.hidden_sizes]))
        self.classifier = nn.Linear([inputs, *config.hidden_sizes][-1], int(config.num_labels or 2))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits ``[batch, labels]`` of ``[batch, channels, height, width]``."""
        hidden = pixel_values.flatten(1)
        for layer in self.hidden:
            hidden = layer(hidden).relu()
        return ImageClassifierOutput(logits=self.classifier(hidden))


AutoConfig.register("mlp", MLPConfig, exist_ok=True)
AutoModelForImageClassification.register(MLPConfig, MLPForImageClassification, exist_ok=True)
