"""Which class of ``transformers`` a configuration is trained as, and whether a model of it can be trained here."""

from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    BaseImageProcessor,
)

import sfa.mlp  # noqa: F401  registers the architecture

SENSES = ("vision", "image", "video", "audio", "speech")  # in the name of a part that is no text
ROUNDING = 1e-5  # of a change: what another order of sums may make
BOTH_DIRECTIONS = ("bert-generation", "xlnet")  # besides those that are trained on masked text


def kind_of(config: Any) -> Any:
    """The class of a configuration's model: decoder, encoder-decoder or image classifier.

    Raises:
        ValueError: it is none of them, takes images or sound beside text, or reads text in both directions.
    """
    kind, name = type(config), str(config.model_type)
    text = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if is_encoder_decoder(config) else MODEL_FOR_CAUSAL_LM_MAPPING
    if _is_multimodal(config):
        raise ValueError(f"{name} takes images or sound beside text, and a text-only checkpoint is needed")
    if kind in text:
        if not is_encoder_decoder(config) and _reads_both_directions(config):
            raise ValueError(f"{name} is an encoder: it reads text in both directions, and a decoder is needed")
        return _one(text[kind], config)
    if kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return _one(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[kind], config)
    raise ValueError(f"{name} is no language model and no image classifier that transformers knows")


def _one(found: Any, config: Any) -> Any:
    """Of a type with several classes the one that the checkpoint was saved from, or else the first, as transformers."""
    several = found if isinstance(found, list | tuple) else (found,)
    return next((kind for kind in several if kind.__name__ in (config.architectures or [])), several[0])


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def is_image_classifier(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def _is_multimodal(config: Any) -> bool:
    kind = type(config)
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return True
    if kind in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return kind not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    parts = getattr(kind, "sub_configs", None) or {}
    return not is_image_classifier(config) and any(sense in part for part in parts for sense in SENSES)


def _reads_both_directions(config: Any) -> bool:
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type in BOTH_DIRECTIONS
    return masked and not getattr(config, "is_decoder", False)


def image_size(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of random weights takes.

    Raises:
        ValueError: its configuration does not say, since it takes any.
    """
    of_images = getattr(config, "vision_config", config)
    size = getattr(of_images, "image_size", None)
    if size is None:
        raise ValueError(f"image_size is required: {config.model_type} takes images of any size")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(getattr(of_images, "num_channels", 3)), int(height), int(width)


def refuse_batch_norm(model: Any) -> None:
    """Refuses a model whose running statistics would be those of other weights after every merge.

    Raises:
        ValueError: it has batch normalisation.
    """
    found = next((name for name, module in model.named_modules() if isinstance(module, _BatchNorm)), None)
    if found is not None:
        raise ValueError(
            f"{model.config.model_type} has batch normalisation ({found}), whose running statistics do not belong to "
            "averaged weights; models with layer normalisation, like vit, dinov2 or convnext, can be trained"
        )


@torch.no_grad()
def try_out(model: Any, processor: Any) -> None:
    """Runs a new model once as it will be trained, so that what it cannot do is told before anything is trained.

    Args:
        model: on CPU.
        processor: its tokenizer or image processor.

    Raises:
        ValueError: it takes something else than text or images, or a decoder's token sees the one after it.
    """
    is_image, training = isinstance(processor, BaseImageProcessor), model.training
    model.eval()
    try:
        if is_image:
            image = np.zeros((len(processor.image_mean), 40, 60), np.uint8)
            options: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
            pixels = processor([image], input_data_format="channels_first", **options)["pixel_values"]
            found = model(pixel_values=pixels.float()).logits
        elif is_encoder_decoder(model.config):
            pair = torch.tensor([[0, 1]])
            found = model(input_ids=pair, attention_mask=torch.ones_like(pair), decoder_input_ids=pair).logits
        else:
            given = {"position_ids": torch.tensor([[0, 1]] * 2), "use_cache": False}
            found = model(input_ids=torch.tensor([[0, 0], [0, 1]]), **given).logits
    except Exception as error:  # each architecture fails in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{model.config.model_type} cannot be run on what it would be trained on: {reason}") from error
    finally:
        model.train(training)
    if is_image:
        if found.shape != (1, model.config.num_labels):
            raise ValueError(f"{model.config.model_type} gives scores of shape {tuple(found.shape)} for one image")
    elif not is_encoder_decoder(model.config):
        before, itself = (found[0] - found[1]).abs().amax(-1)
        if before > ROUNDING * itself:  # the first token's logits, moved by the second
            raise ValueError(f"{model.config.model_type} reads text in both directions, and a decoder is needed")
